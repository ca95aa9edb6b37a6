package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/catalog"
	"skylift/internal/secret"
)

// pageSize is the default and the most of maxResults, as in SMS.
const pageSize = 50

// listing is what a page token is good for: one action with one filter, in one Region.
type listing struct {
	h              *Handler
	action, filter string
	region         string
}

func (h *Handler) listing(ctx context.Context, action, filter string) listing {
	caller, _ := CallerFrom(ctx)
	return listing{h, action, filter, caller.Region}
}

// page gives the page that a request asks for.
func (l listing) page(in sms.Page) (catalog.Page, error) {
	p := catalog.Page{Limit: pageSize}
	if in.MaxResults != nil {
		if p.Limit = int(*in.MaxResults); p.Limit < 1 || p.Limit > pageSize {
			return p, invalid("maxResults must be 1 to %d", pageSize)
		}
	}
	if in.NextToken != "" {
		after, err := l.h.pages.open(in.NextToken, l.action, l.region, l.filter)
		if err != nil {
			return p, invalid("nextToken is not one that %s gave for the same request; start again without it", l.action)
		}
		p.After = after
	}
	return p, nil
}

// token gives the nextToken of the page that begins behind after; "" for none.
func (l listing) token(after string) string {
	if after == "" {
		return ""
	}
	return l.h.pages.seal(after, l.action, l.region, l.filter)
}

// pager makes page tokens: a position under a MAC that also covers what the
// token is bound to. The position is no secret, only opaque.
type pager struct{ key secret.Text }

var errToken = errors.New("not a page token for this listing")

func (p pager) seal(after string, bound ...string) string {
	return base64.RawURLEncoding.EncodeToString(append(p.mac(after, bound), after...))
}

func (p pager) open(token string, bound ...string) (string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) <= sha256.Size {
		return "", errToken
	}
	after := string(b[sha256.Size:])
	if !hmac.Equal(b[:sha256.Size], p.mac(after, bound)) {
		return "", errToken
	}
	return after, nil
}

func (p pager) mac(after string, bound []string) []byte {
	m := hmac.New(sha256.New, []byte(p.key.Reveal()))
	_, _ = io.WriteString(m, "skylift page 1") // a hash takes every write
	for _, s := range append([]string{after}, bound...) {
		_, _ = m.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s)))) // so that no two lists look alike
		_, _ = io.WriteString(m, s)
	}
	return m.Sum(nil)
}
