package vsphere

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sync/errgroup"
)

const (
	// hostTries is how many hosts are tried at once, hostsTried how many in
	// all: a sample of a large installation tells as much.
	hostTries  = 8
	hostsTried = 64
)

// triedHost is a host, and why files cannot be had from it directly.
type triedHost struct {
	name       string
	connection types.HostSystemConnectionState
	why        string // empty for a host that answers
}

func (h triedHost) verdict() string { return cmp.Or(h.why, "possible") }

// tryHosts asks the hosts for something that they need not have: any answer
// under a certificate that is trusted will do.
func (s *Source) tryHosts(ctx context.Context) ([]triedHost, error) {
	var found []mo.HostSystem
	err := s.session.steadily(func() (err error) {
		view, destroy, err := s.session.view(ctx, "HostSystem")
		if err != nil {
			return err
		}
		defer func() { err = s.tidy(err, destroy(ctx)) }()
		objects, err := s.session.retrieveSpec(ctx, types.PropertyFilterSpec{
			ObjectSet: []types.ObjectSpec{viewed(view)},
			PropSet:   []types.PropertySpec{{Type: "HostSystem", PathSet: []string{"name", "runtime.connectionState"}}},
		})
		if err != nil {
			return err
		}
		return mo.LoadObjectContent(objects, &found)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b mo.HostSystem) int { return cmp.Compare(a.Name, b.Name) })
	tried := make([]triedHost, min(len(found), hostsTried))
	group := errgroup.Group{}
	group.SetLimit(hostTries)
	for i := range tried {
		tried[i] = triedHost{name: found[i].Name, connection: found[i].Runtime.ConnectionState}
		group.Go(func() error {
			if tried[i].connection != types.HostSystemConnectionStateConnected {
				tried[i].why = "vCenter has lost the host"
				return nil
			}
			if err := s.tryHost(ctx, found[i].Self); err != nil {
				tried[i].why = err.Error()
			}
			return ctx.Err()
		})
	}
	return tried, group.Wait()
}

// tryHost makes one request to the host with a ticket of vCenter's.
func (s *Source) tryHost(ctx context.Context, r ref) error {
	ctx, cancel := context.WithTimeout(ctx, 2*hostTrial)
	defer cancel()
	h, err := s.host(ctx, r)
	if err != nil {
		return err
	}
	if h == nil {
		return errors.New("vCenter does not show the host")
	}
	u := url.URL{Scheme: "https", Host: h.name, Path: "/folder", RawQuery: url.Values{"dcPath": {hostDatacenter}}.Encode()}
	ticket, err := s.ticket(ctx, &u)
	if err != nil {
		return explain(err, "a ticket for the host")
	}
	err = errors.New("vCenter does not tell its address")
	for _, address := range h.addresses(ticket) {
		if err = s.greet(ctx, address, thumbprint(ticket), u, ticket.Id); err == nil {
			return nil
		}
	}
	return err
}

// greet is content with any answer: what the host gives out is another matter.
func (s *Source) greet(ctx context.Context, address, thumbprint string, u url.URL, ticket string) error {
	ctx, cancel := context.WithTimeout(ctx, hostTrial)
	defer cancel()
	client, err := s.hostClient(address, thumbprint)
	if err != nil {
		return err
	}
	u.Host = address
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.AddCookie(&http.Cookie{Name: ticketCookie, Value: ticket})
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	return errors.Join(err, res.Body.Close())
}
