package sms

// Connector is one enrolled connector. The VMManager members show its first source.
type Connector struct {
	ConnectorID    string   `json:"connectorId"`
	Version        string   `json:"version,omitempty"`
	Status         string   `json:"status,omitempty"` // HEALTHY, UNHEALTHY
	CapabilityList []string `json:"capabilityList"`
	VMManagerName  string   `json:"vmManagerName,omitempty"`
	VMManagerType  string   `json:"vmManagerType,omitempty"`
	VMManagerID    string   `json:"vmManagerId,omitempty"`
	IPAddress      string   `json:"ipAddress,omitempty"`
	MACAddress     string   `json:"macAddress,omitempty"`
	AssociatedOn   Time     `json:"associatedOn,omitzero"`

	Name     string            `json:"name,omitempty"`    // extra: its host name
	LastSeen Time              `json:"lastSeen,omitzero"` // extra
	Sources  []ConnectorSource `json:"sources,omitempty"` // extra
}

// ConnectorSource is one source of a connector.
type ConnectorSource struct {
	SourceID string `json:"sourceId"`
	Platform string `json:"platform,omitempty"` // vsphere, hyperv, scvmm, azure
	Name     string `json:"name,omitempty"`
}

// Server is one server of the catalog.
type Server struct {
	ServerID                 string   `json:"serverId"`
	ServerType               string   `json:"serverType"` // VIRTUAL_MACHINE
	VMServer                 VMServer `json:"vmServer"`
	ReplicationJobID         string   `json:"replicationJobId,omitempty"`
	ReplicationJobTerminated *bool    `json:"replicationJobTerminated,omitempty"`

	PoweredOn bool         `json:"poweredOn"`          // extra
	GuestOS   string       `json:"guestOs,omitempty"`  // extra
	Firmware  string       `json:"firmware,omitempty"` // extra
	Disks     []ServerDisk `json:"disks,omitempty"`    // extra
	Gone      bool         `json:"gone,omitempty"`     // extra: no longer on its source
}

// ServerDisk is a disk as the inventory shows it.
type ServerDisk struct {
	DiskID     string `json:"diskId"`
	Name       string `json:"name,omitempty"`
	SizeBytes  int64  `json:"sizeBytes"`
	SkipReason string `json:"skipReason,omitempty"` // why it cannot be replicated
}

// VMServer tells where a server lives.
type VMServer struct {
	VMServerAddress VMServerAddress `json:"vmServerAddress"`
	VMName          string          `json:"vmName,omitempty"`
	VMManagerName   string          `json:"vmManagerName,omitempty"`
	VMManagerType   string          `json:"vmManagerType,omitempty"` // VSPHERE, SCVMM, HYPERV-MANAGER; empty for Azure
	VMPath          string          `json:"vmPath,omitempty"`

	Platform string `json:"platform,omitempty"` // extra: vsphere, hyperv, scvmm, azure
}

// VMServerAddress is a server's address: its source and the source's own ID of it.
type VMServerAddress struct {
	VMManagerID string `json:"vmManagerId,omitempty"`
	VMID        string `json:"vmId,omitempty"`
}

// ReplicationJob is a job. Frequency is in hours; zero for one that runs once
// and where FrequencyMinutes makes no whole hours. ReplicationRunList has the
// latest runs, when one job was asked for.
type ReplicationJob struct {
	ReplicationJobID            string           `json:"replicationJobId"`
	ServerID                    string           `json:"serverId"`
	ServerType                  string           `json:"serverType"`
	VMServer                    VMServer         `json:"vmServer,omitzero"`
	SeedReplicationTime         Time             `json:"seedReplicationTime,omitzero"`
	Frequency                   int32            `json:"frequency,omitempty"`
	RunOnce                     bool             `json:"runOnce"`
	NextReplicationRunStartTime Time             `json:"nextReplicationRunStartTime,omitzero"`
	LicenseType                 string           `json:"licenseType,omitempty"`
	RoleName                    string           `json:"roleName,omitempty"`
	LatestAmiID                 string           `json:"latestAmiId,omitempty"`
	State                       string           `json:"state"`
	StatusMessage               string           `json:"statusMessage,omitempty"`
	Description                 string           `json:"description,omitempty"`
	NumberOfRecentAmisToKeep    int32            `json:"numberOfRecentAmisToKeep"`
	Encrypted                   bool             `json:"encrypted"`
	KMSKeyID                    string           `json:"kmsKeyId,omitempty"`
	ReplicationRunList          []ReplicationRun `json:"replicationRunList,omitempty"`

	FrequencyMinutes int32    `json:"frequencyMinutes,omitempty"` // extra
	Quiesce          string   `json:"quiesce,omitempty"`          // extra
	KeepStaging      bool     `json:"keepStaging"`                // extra
	SkipDisks        []string `json:"skipDisks,omitempty"`        // extra
}

// ReplicationRun is one pass of a job.
type ReplicationRun struct {
	ReplicationRunID   string       `json:"replicationRunId"`
	State              string       `json:"state"`
	Type               string       `json:"type"` // AUTOMATIC, ON_DEMAND
	StageDetails       StageDetails `json:"stageDetails,omitzero"`
	StatusMessage      string       `json:"statusMessage,omitempty"`
	AmiID              string       `json:"amiId,omitempty"`
	ScheduledStartTime Time         `json:"scheduledStartTime,omitzero"`
	CompletedTime      Time         `json:"completedTime,omitzero"`
	Description        string       `json:"description,omitempty"`
	Encrypted          bool         `json:"encrypted"`
	KMSKeyID           string       `json:"kmsKeyId,omitempty"`

	Consistency       string    `json:"consistency,omitempty"`       // extra: crash, quiesced, powered-off
	ConsistencyReason string    `json:"consistencyReason,omitempty"` // extra: why it is less than asked for
	WaitingFor        string    `json:"waitingFor,omitempty"`        // extra
	Disks             []RunDisk `json:"disks,omitempty"`             // extra
}

// StageDetails tells how far a run is: Preparing, Uploading, Converting or
// Completed, and the stage's progress ("45%").
type StageDetails struct {
	Stage         string `json:"stage,omitempty"`
	StageProgress string `json:"stageProgress,omitempty"`
}

// RunDisk is what a run did for one disk. Counters are bytes.
type RunDisk struct {
	DiskID          string `json:"diskId"`
	Name            string `json:"name,omitempty"`
	Kind            string `json:"kind,omitempty"` // full, incremental, comparing
	Reason          string `json:"reason,omitempty"`
	Transport       string `json:"transport,omitempty"`
	TransportReason string `json:"transportReason,omitempty"`
	SizeBytes       int64  `json:"sizeBytes"`
	PlannedBytes    int64  `json:"plannedBytes"`
	ReadBytes       int64  `json:"readBytes"`
	ChangedBytes    int64  `json:"changedBytes"`
	SentBytes       int64  `json:"sentBytes"`
	StoredBytes     int64  `json:"storedBytes"`
	ResumedBytes    int64  `json:"resumedBytes"`
	Digest          string `json:"digest,omitempty"` // hex
	Image           string `json:"image,omitempty"`
}
