package smsclient

import (
	"context"
	"errors"
	"iter"

	"skylift/controlplane/api/sms"
)

// GetConnectors gives one page of the connectors.
func (c *Client) GetConnectors(ctx context.Context, in sms.GetConnectorsRequest) (sms.GetConnectorsResponse, error) {
	return call[sms.GetConnectorsResponse](ctx, c, "GetConnectors", in)
}

// DisassociateConnector ends a connector's enrolment.
func (c *Client) DisassociateConnector(ctx context.Context, connectorID string) error {
	_, err := call[sms.Empty](ctx, c, "DisassociateConnector", sms.DisassociateConnectorRequest{ConnectorID: connectorID})
	return err
}

// ImportServerCatalog asks all connectors for their servers.
func (c *Client) ImportServerCatalog(ctx context.Context) error {
	_, err := call[sms.Empty](ctx, c, "ImportServerCatalog", sms.ImportServerCatalogRequest{})
	return err
}

// GetServers gives one page of the servers.
func (c *Client) GetServers(ctx context.Context, in sms.GetServersRequest) (sms.GetServersResponse, error) {
	return call[sms.GetServersResponse](ctx, c, "GetServers", in)
}

// DeleteServerCatalog clears the catalog.
func (c *Client) DeleteServerCatalog(ctx context.Context) error {
	_, err := call[sms.Empty](ctx, c, "DeleteServerCatalog", sms.DeleteServerCatalogRequest{})
	return err
}

// CreateReplicationJob makes a job and returns its ID.
func (c *Client) CreateReplicationJob(ctx context.Context, in sms.CreateReplicationJobRequest) (string, error) {
	out, err := call[sms.CreateReplicationJobResponse](ctx, c, "CreateReplicationJob", in)
	return out.ReplicationJobID, err
}

// GetReplicationJobs gives one page of the jobs.
func (c *Client) GetReplicationJobs(ctx context.Context, in sms.GetReplicationJobsRequest) (sms.GetReplicationJobsResponse, error) {
	return call[sms.GetReplicationJobsResponse](ctx, c, "GetReplicationJobs", in)
}

// UpdateReplicationJob changes what is given of a job.
func (c *Client) UpdateReplicationJob(ctx context.Context, in sms.UpdateReplicationJobRequest) error {
	_, err := call[sms.Empty](ctx, c, "UpdateReplicationJob", in)
	return err
}

// DeleteReplicationJob ends a job and its runs; images stay.
func (c *Client) DeleteReplicationJob(ctx context.Context, jobID string) error {
	_, err := call[sms.Empty](ctx, c, "DeleteReplicationJob", sms.DeleteReplicationJobRequest{ReplicationJobID: jobID})
	return err
}

// StartOnDemandReplicationRun asks for a run now and returns its ID.
func (c *Client) StartOnDemandReplicationRun(ctx context.Context, jobID, description string) (string, error) {
	out, err := call[sms.StartOnDemandReplicationRunResponse](ctx, c, "StartOnDemandReplicationRun",
		sms.StartOnDemandReplicationRunRequest{ReplicationJobID: jobID, Description: description})
	return out.ReplicationRunID, err
}

// GetReplicationRuns gives one page of a job's runs.
func (c *Client) GetReplicationRuns(ctx context.Context, in sms.GetReplicationRunsRequest) (sms.GetReplicationRunsResponse, error) {
	return call[sms.GetReplicationRunsResponse](ctx, c, "GetReplicationRuns", in)
}

// Connectors goes through all connectors. An error ends the sequence.
func (c *Client) Connectors(ctx context.Context) iter.Seq2[sms.Connector, error] {
	return all(func(p sms.Page) ([]sms.Connector, string, error) {
		out, err := c.GetConnectors(ctx, sms.GetConnectorsRequest{Page: p})
		return out.ConnectorList, out.NextToken, err
	})
}

// Servers goes through all servers. An error ends the sequence.
func (c *Client) Servers(ctx context.Context) iter.Seq2[sms.Server, error] {
	return all(func(p sms.Page) ([]sms.Server, string, error) {
		out, err := c.GetServers(ctx, sms.GetServersRequest{Page: p})
		return out.ServerList, out.NextToken, err
	})
}

// ReplicationJobs goes through all jobs. An error ends the sequence.
func (c *Client) ReplicationJobs(ctx context.Context) iter.Seq2[sms.ReplicationJob, error] {
	return all(func(p sms.Page) ([]sms.ReplicationJob, string, error) {
		out, err := c.GetReplicationJobs(ctx, sms.GetReplicationJobsRequest{Page: p})
		return out.ReplicationJobList, out.NextToken, err
	})
}

// ReplicationRuns goes through all runs of a job. An error ends the sequence.
func (c *Client) ReplicationRuns(ctx context.Context, jobID string) iter.Seq2[sms.ReplicationRun, error] {
	return all(func(p sms.Page) ([]sms.ReplicationRun, string, error) {
		out, err := c.GetReplicationRuns(ctx, sms.GetReplicationRunsRequest{Page: p, ReplicationJobID: jobID})
		return out.ReplicationRunList, out.NextToken, err
	})
}

// all follows the pages. A token that comes a second time would go in circles.
func all[T any](page func(sms.Page) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var p sms.Page
		seen := make(map[string]bool)
		for {
			var none T
			list, next, err := page(p)
			if err != nil {
				yield(none, err)
				return
			}
			for _, item := range list {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			if seen[next] {
				yield(none, errors.New("the control plane repeats a page token; the listing cannot go on"))
				return
			}
			seen[next], p.NextToken = true, next
		}
	}
}
