// Package sms has the requests and responses of the SMS API as they are on
// the wire, for the server and the client: the members of AWS SMS, and
// Skylift's own, which are marked as extra. A pointer is a member whose absence
// differs from its zero value.
package sms

// The protocol.
const (
	Service      = "sms" // in the scope of a signature
	TargetHeader = "X-Amz-Target"
	TargetPrefix = "AWSServerMigrationService_V2016_10_24."
	ContentType  = "application/x-amz-json-1.1"
	RequestID    = "X-Amzn-Requestid"
)

// Page asks for a part of a list: at most 50 entries, which is the default.
type Page struct {
	NextToken  string `json:"nextToken,omitempty"`
	MaxResults *int32 `json:"maxResults,omitempty"`
}

// Empty is the response of actions that answer with nothing.
type Empty struct{}

// GetConnectorsRequest asks for the connectors.
type GetConnectorsRequest struct{ Page }

// GetConnectorsResponse is a page of the connectors.
type GetConnectorsResponse struct {
	ConnectorList []Connector `json:"connectorList"`
	NextToken     string      `json:"nextToken,omitempty"`
}

// DisassociateConnectorRequest ends a connector's enrolment.
type DisassociateConnectorRequest struct {
	ConnectorID string `json:"connectorId"`
}

// ImportServerCatalogRequest asks all connectors for their servers.
type ImportServerCatalogRequest struct{}

// DeleteServerCatalogRequest clears the catalog.
type DeleteServerCatalogRequest struct{}

// GetServersRequest asks for the servers: all, or those at the addresses.
type GetServersRequest struct {
	Page
	VMServerAddressList []VMServerAddress `json:"vmServerAddressList,omitempty"`
}

// GetServersResponse is a page of the servers, with the catalog's state.
type GetServersResponse struct {
	LastModifiedOn      Time     `json:"lastModifiedOn,omitzero"`
	ServerCatalogStatus string   `json:"serverCatalogStatus,omitempty"`
	ServerList          []Server `json:"serverList"`
	NextToken           string   `json:"nextToken,omitempty"`
}

// CreateReplicationJobRequest makes a job. Frequency is in hours.
type CreateReplicationJobRequest struct {
	ServerID                 string `json:"serverId"`
	SeedReplicationTime      Time   `json:"seedReplicationTime,omitzero"`
	Frequency                *int32 `json:"frequency,omitempty"`
	RunOnce                  *bool  `json:"runOnce,omitempty"`
	LicenseType              string `json:"licenseType,omitempty"`
	RoleName                 string `json:"roleName,omitempty"`
	Description              string `json:"description,omitempty"`
	NumberOfRecentAmisToKeep *int32 `json:"numberOfRecentAmisToKeep,omitempty"`
	Encrypted                *bool  `json:"encrypted,omitempty"`
	KMSKeyID                 string `json:"kmsKeyId,omitempty"`

	FrequencyMinutes *int32   `json:"frequencyMinutes,omitempty"` // extra: 5 to 1440, instead of frequency
	Quiesce          string   `json:"quiesce,omitempty"`          // extra: never, prefer, require
	KeepStaging      *bool    `json:"keepStaging,omitempty"`      // extra
	SkipDisks        []string `json:"skipDisks,omitempty"`        // extra: disk IDs
}

// CreateReplicationJobResponse names the new job.
type CreateReplicationJobResponse struct {
	ReplicationJobID string `json:"replicationJobId"`
}

// GetReplicationJobsRequest asks for all jobs, or for one.
type GetReplicationJobsRequest struct {
	Page
	ReplicationJobID string `json:"replicationJobId,omitempty"`
}

// GetReplicationJobsResponse is a page of the jobs.
type GetReplicationJobsResponse struct {
	ReplicationJobList []ReplicationJob `json:"replicationJobList"`
	NextToken          string           `json:"nextToken,omitempty"`
}

// UpdateReplicationJobRequest changes what is given of a job.
type UpdateReplicationJobRequest struct {
	ReplicationJobID            string  `json:"replicationJobId"`
	Frequency                   *int32  `json:"frequency,omitempty"`
	NextReplicationRunStartTime *Time   `json:"nextReplicationRunStartTime,omitempty"`
	LicenseType                 *string `json:"licenseType,omitempty"`
	RoleName                    *string `json:"roleName,omitempty"`
	Description                 *string `json:"description,omitempty"`
	NumberOfRecentAmisToKeep    *int32  `json:"numberOfRecentAmisToKeep,omitempty"`
	Encrypted                   *bool   `json:"encrypted,omitempty"`
	KMSKeyID                    *string `json:"kmsKeyId,omitempty"`

	FrequencyMinutes *int32    `json:"frequencyMinutes,omitempty"` // extra
	Quiesce          *string   `json:"quiesce,omitempty"`          // extra
	KeepStaging      *bool     `json:"keepStaging,omitempty"`      // extra
	SkipDisks        *[]string `json:"skipDisks,omitempty"`        // extra
}

// DeleteReplicationJobRequest ends a job and its runs; images stay.
type DeleteReplicationJobRequest struct {
	ReplicationJobID string `json:"replicationJobId"`
}

// StartOnDemandReplicationRunRequest asks for a run now.
type StartOnDemandReplicationRunRequest struct {
	ReplicationJobID string `json:"replicationJobId"`
	Description      string `json:"description,omitempty"`
}

// StartOnDemandReplicationRunResponse names the new run.
type StartOnDemandReplicationRunResponse struct {
	ReplicationRunID string `json:"replicationRunId"`
}

// GetReplicationRunsRequest asks for a job's runs.
type GetReplicationRunsRequest struct {
	Page
	ReplicationJobID string `json:"replicationJobId"`
}

// GetReplicationRunsResponse is a page of a job's runs, with the job.
type GetReplicationRunsResponse struct {
	ReplicationJob     ReplicationJob   `json:"replicationJob,omitzero"`
	ReplicationRunList []ReplicationRun `json:"replicationRunList"`
	NextToken          string           `json:"nextToken,omitempty"`
}
