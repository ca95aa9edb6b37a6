package smsclient

import (
	"context"

	"skylift/controlplane/api/sms"
)

// CheckServer asks a connector to look at a server.
func (c *Client) CheckServer(ctx context.Context, serverID string) error {
	_, err := call[sms.Empty](ctx, c, "CheckServer", sms.CheckServerRequest{ServerID: serverID})
	return err
}

// EnableChangeTracking asks a connector to switch change tracking of a
// server's disks on; a server that runs is stunned for as long as a snapshot
// is made and removed.
func (c *Client) EnableChangeTracking(ctx context.Context, serverID string) error {
	_, err := call[sms.Empty](ctx, c, "EnableChangeTracking", sms.EnableChangeTrackingRequest{ServerID: serverID})
	return err
}

// CheckSource asks a connector to look at a source.
func (c *Client) CheckSource(ctx context.Context, sourceID string) error {
	_, err := call[sms.Empty](ctx, c, "CheckSource", sms.CheckSourceRequest{SourceID: sourceID})
	return err
}

// GetServerReadiness tells what is known of a server's readiness.
func (c *Client) GetServerReadiness(ctx context.Context, serverID string) (sms.GetServerReadinessResponse, error) {
	return call[sms.GetServerReadinessResponse](ctx, c, "GetServerReadiness", sms.GetServerReadinessRequest{ServerID: serverID})
}

// GetSourceReadiness tells what is known of a source's readiness.
func (c *Client) GetSourceReadiness(ctx context.Context, sourceID string) (sms.GetSourceReadinessResponse, error) {
	return call[sms.GetSourceReadinessResponse](ctx, c, "GetSourceReadiness", sms.GetSourceReadinessRequest{SourceID: sourceID})
}
