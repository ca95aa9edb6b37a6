package vsphere

import (
	"crypto/tls"
	"errors"
	"reflect"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// isUntrusted reports that the other side's certificate was refused: asking
// again does not change it.
func isUntrusted(err error) bool {
	var e *tls.CertificateVerificationError
	return errors.As(err, &e)
}

func notAuthenticated(err error) bool { return fault.Is(err, &types.NotAuthenticated{}) }

// unauthenticatedProperties finds the other way in which vSphere says that a
// session has expired: an answer whose properties are missing for that reason.
func unauthenticatedProperties(res soap.HasFault) error {
	var objects []types.ObjectContent
	switch body := res.(type) {
	case *methods.RetrievePropertiesExBody:
		if body.Res != nil && body.Res.Returnval != nil {
			objects = body.Res.Returnval.Objects
		}
	case *methods.RetrievePropertiesBody:
		if body.Res != nil {
			objects = body.Res.Returnval
		}
	}
	for _, o := range objects {
		for _, m := range o.MissingSet {
			if _, ok := m.Fault.Fault.(*types.NotAuthenticated); ok {
				return soap.WrapVimFault(m.Fault.Fault)
			}
		}
	}
	return nil
}

// onlyReads tells calls that can be repeated at will: those that only read, and
// those that a lease gets more than once without harm. The others are
// repeated, or not, by those who know what they do.
func onlyReads(req soap.HasFault) bool {
	switch req.(type) {
	case *methods.RetrievePropertiesExBody, *methods.RetrievePropertiesBody, *methods.FindAllByUuidBody,
		*methods.QueryChangedDiskAreasBody, *methods.HasPrivilegeOnEntitiesBody, *methods.CurrentTimeBody,
		*methods.HttpNfcLeaseProgressBody, *methods.HttpNfcLeaseCompleteBody, *methods.HttpNfcLeaseAbortBody,
		*methods.AcquireGenericServiceTicketBody: // a ticket too many does no harm
		return true
	}
	return false
}

// callName is the API's name of the call: "RetrievePropertiesEx".
func callName(req soap.HasFault) string {
	v := reflect.ValueOf(req).Elem().FieldByName("Req")
	if v.Kind() == reflect.Pointer {
		return v.Type().Elem().Name()
	}
	return v.Type().Name()
}
