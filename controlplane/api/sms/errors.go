package sms

// The errors of the model, as they stand in "__type".
const (
	InternalError               = "InternalError"
	InvalidParameter            = "InvalidParameterException"
	MissingRequiredParameter    = "MissingRequiredParameterException"
	NoConnectorsAvailable       = "NoConnectorsAvailableException"
	OperationNotPermitted       = "OperationNotPermittedException"
	ReplicationJobAlreadyExists = "ReplicationJobAlreadyExistsException"
	ReplicationJobNotFound      = "ReplicationJobNotFoundException"
	ReplicationRunLimitExceeded = "ReplicationRunLimitExceededException"
	ServerCannotBeReplicated    = "ServerCannotBeReplicatedException"
	TemporarilyUnavailable      = "TemporarilyUnavailableException"
	UnauthorizedOperation       = "UnauthorizedOperationException"
)

// The errors that every action may answer with, whatever the model lists for
// it: those of the protocol and AWS's common ones.
const (
	InternalFailure            = "InternalFailure"    // where the action does not list InternalError
	ServiceUnavailable         = "ServiceUnavailable" // where it does not list TemporarilyUnavailable
	ValidationError            = "ValidationError"    // where it lists no fitting error
	Serialization              = "SerializationException"
	UnknownOperation           = "UnknownOperationException"
	RequestTooLarge            = "RequestEntityTooLargeException"
	MissingAuthenticationToken = "MissingAuthenticationTokenException"
	IncompleteSignature        = "IncompleteSignatureException"
	InvalidSignature           = "InvalidSignatureException" // its time or scope is wrong
	SignatureDoesNotMatch      = "SignatureDoesNotMatch"
	UnrecognizedClient         = "UnrecognizedClientException" // no such access key
)

// Failure is an error on the wire.
type Failure struct {
	Type    string `json:"__type"`
	Message string `json:"message"`
}
