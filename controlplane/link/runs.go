package link

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"skylift/controlplane/replication"
	"skylift/link"
	"skylift/link/linkv1"
)

// lease names the lease that the caller claims to hold.
func lease(ctx context.Context, run string, epoch int64) replication.Lease {
	return replication.Lease{Run: run, Owner: link.Connector(ctx), Epoch: epoch}
}

// Renew implements LinkService.
func (s *Service) Renew(ctx context.Context, r *connect.Request[linkv1.RenewRequest]) (*connect.Response[linkv1.RenewResponse], error) {
	s.touch(ctx)
	l := lease(ctx, r.Msg.Run, r.Msg.Epoch)
	renewal, err := s.runs.Renew(ctx, l, progressFrom(r.Msg.Progress))
	if err != nil {
		return nil, s.answer(ctx, err)
	}
	l.TTL, l.Job = renewal.TTL, renewal.Job
	response := &linkv1.RenewResponse{Lease: leaseOf(l), Cancel: renewal.Cancel}
	if !renewal.Cancel {
		// The lease goes on without fresh credentials: those it has last for a while yet.
		if response.Credentials, err = s.credentials(ctx, l); err != nil {
			s.options.Log.WithError(err).WithField("run", l.Run).Warn("cannot renew a connector's credentials; trying again with its next heartbeat")
		}
	}
	return connect.NewResponse(response), nil
}

// RecordSnapshot implements LinkService.
func (s *Service) RecordSnapshot(ctx context.Context, r *connect.Request[linkv1.RecordSnapshotRequest]) (*connect.Response[linkv1.RecordSnapshotResponse], error) {
	if r.Msg.Snapshot == nil {
		return nil, s.answer(ctx, RequestRefused.New(errors.New("no snapshot is named"), "record a snapshot"))
	}
	if err := s.runs.RecordSnapshot(ctx, lease(ctx, r.Msg.Run, r.Msg.Epoch), snapshotFrom(r.Msg.Snapshot)); err != nil {
		return nil, s.answer(ctx, err)
	}
	return connect.NewResponse(&linkv1.RecordSnapshotResponse{}), nil
}

// Seal implements LinkService.
func (s *Service) Seal(ctx context.Context, r *connect.Request[linkv1.SealRequest]) (*connect.Response[linkv1.SealResponse], error) {
	l := lease(ctx, r.Msg.Run, r.Msg.Epoch)
	counters := replication.Progress{Uploading: true}
	var disks []replication.SealedDisk
	for _, d := range r.Msg.Disks {
		disks = append(disks, sealedFrom(d))
		if d.Counters != nil {
			counters.Disks = append(counters.Disks, diskProgressFrom(d.Counters))
		}
	}
	if _, err := s.runs.Renew(ctx, l, counters); err != nil {
		return nil, s.answer(ctx, err)
	}
	if err := s.runs.Seal(ctx, l, disks); err != nil {
		return nil, s.answer(ctx, err)
	}
	return connect.NewResponse(&linkv1.SealResponse{}), nil
}

// Finish implements LinkService.
func (s *Service) Finish(ctx context.Context, r *connect.Request[linkv1.FinishRequest]) (*connect.Response[linkv1.FinishResponse], error) {
	s.touch(ctx)
	l := lease(ctx, r.Msg.Run, r.Msg.Epoch)
	if r.Msg.Progress != nil {
		if _, err := s.runs.Renew(ctx, l, progressFrom(r.Msg.Progress)); err != nil {
			return nil, s.answer(ctx, err)
		}
	}
	var err error
	switch outcome := r.Msg.Outcome.(type) {
	case *linkv1.FinishRequest_Settled:
		err = s.runs.Settled(ctx, l, anchorFrom(outcome.Settled.GetAnchor()))
	case *linkv1.FinishRequest_Failure:
		f := outcome.Failure
		if f.GetRelease() {
			err = s.runs.Release(ctx, l)
			break
		}
		err = s.runs.Fail(ctx, l, replication.Failure{Code: f.GetCode(), Message: f.GetMessage(), Hint: f.GetHint(), Retry: f.GetRetry()})
	default:
		err = RequestRefused.New(errors.New("it has no outcome"), "finish run %s", l.Run)
	}
	if err != nil {
		return nil, s.answer(ctx, err)
	}
	return connect.NewResponse(&linkv1.FinishResponse{}), nil
}

// Judge implements LinkService.
func (s *Service) Judge(ctx context.Context, r *connect.Request[linkv1.JudgeRequest]) (*connect.Response[linkv1.JudgeResponse], error) {
	s.touch(ctx)
	var snapshots []replication.Snapshot
	for _, v := range r.Msg.Snapshots {
		snapshots = append(snapshots, snapshotFrom(v))
	}
	var anchors []replication.Anchor
	for _, v := range r.Msg.Anchors {
		if a := anchorFrom(v); a != nil {
			anchors = append(anchors, *a)
		}
	}
	dead, gone, err := s.runs.Judge(ctx, snapshots, anchors)
	if err != nil {
		return nil, s.answer(ctx, err)
	}
	response := &linkv1.JudgeResponse{}
	for _, v := range dead {
		response.DeadSnapshots = append(response.DeadSnapshots, snapshotOf(v))
	}
	for _, v := range gone {
		response.DeadAnchors = append(response.DeadAnchors, &linkv1.Anchor{Server: v.Server, Run: v.Run, Id: v.ID})
	}
	return connect.NewResponse(response), nil
}
