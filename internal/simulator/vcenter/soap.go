package vcenter

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"

	vimxml "github.com/vmware/govmomi/vim25/xml"

	"github.com/vmware/govmomi/vim25/types"
)

const maxRequest = 16 << 20

// serveSDK looks at a SOAP call before govmomi's simulator gets it: counts it,
// lets Config.Fault have it, checks its session, and refuses what is not modeled.
func (s *Server) serveSDK(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		s.refuse("%s %s: SOAP calls are posted", r.Method, r.URL.Path)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "cannot read the request", http.StatusBadRequest)
		return
	}
	method, object, err := parseCall(bytes.NewReader(body))
	if err != nil {
		msg := s.refuse("a request that is no SOAP call: %v", err)
		writeFault(w, SOAPFault{&types.InvalidRequest{}, msg})
		return
	}
	if !s.pause(r.Context(), s.callLatency()) {
		panic(http.ErrAbortHandler)
	}
	defer s.sessions.use(r)()
	err = s.arrive(r.Context(), Call{Method: method, Object: object})
	var status HTTPStatus
	var after DropAfter
	switch {
	case errors.Is(err, ErrDropped), errors.As(err, &after):
		panic(http.ErrAbortHandler)
	case errors.As(err, &status):
		w.WriteHeader(int(status))
		return
	case errors.Is(err, ErrAnswerLost):
		w = lost{header: http.Header{}}
	case err != nil:
		writeFault(w, asSOAP(err))
		return
	}
	switch {
	case !s.sessions.valid(r) && !slices.Contains(withoutSession(), method):
		writeFault(w, notAuthenticated(object))
	case method == "Login" && s.sessions.full():
		w.WriteHeader(http.StatusServiceUnavailable)
	case !supported(object.Type, method):
		msg := s.refuse("%s on %s: the simulator does not model it", method, object)
		writeFault(w, SOAPFault{&types.MethodNotFound{Receiver: object, Method: method}, msg})
	case s.restricted(method):
		writeFault(w, restrictedVersion())
	case s.disabled(object, method):
		writeFault(w, SOAPFault{&types.MethodDisabled{}, "The method is disabled by another product: " + method})
	default:
		if err := errors.Join(s.permit(object, method), s.operable(object, method)); err != nil {
			writeFault(w, asSOAP(err))
			break
		}
		s.dispatch(w, r, body, method)
	}
	if _, ok := w.(lost); ok {
		panic(http.ErrAbortHandler)
	}
}

// disabled says whether a VM, or that of a snapshot, has the method disabled.
func (s *Server) disabled(object types.ManagedObjectReference, method string) bool {
	s.world.RLock()
	defer s.world.RUnlock()
	vm := s.vms[object]
	if snap, ok := s.model.Map().Get(object).(*snapshotObject); ok {
		vm = snap.vm
	}
	return vm != nil && slices.Contains(vm.disabled, method)
}

// operable is the fault of an operation on a server whose host vCenter has lost.
func (s *Server) operable(object types.ManagedObjectReference, method string) error {
	s.world.RLock()
	defer s.world.RUnlock()
	vm := s.vms[object]
	if snap, ok := s.model.Map().Get(object).(*snapshotObject); ok {
		vm = snap.vm
	}
	if vm == nil || vm.host.connected() {
		return nil
	}
	return SOAPFault{&types.HostNotConnected{}, "Unable to communicate with the remote host, since it is disconnected: " + method}
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, body []byte, method string) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	if method == "Login" {
		w = &loginWriter{ResponseWriter: w, sessions: &s.sessions}
	}
	if method == "Logout" {
		defer s.sessions.end(r)
	}
	s.world.RLock()
	defer s.world.RUnlock()
	s.service.ServeSDK(w, r)
}

// parseCall finds a SOAP call's method and object: the first element of the
// body and its _this.
func parseCall(r io.Reader) (method string, object types.ManagedObjectReference, err error) {
	dec := xml.NewDecoder(r)
	inBody := false
	for {
		token, err := dec.Token()
		if err != nil {
			return "", object, fmt.Errorf("no method found: %w", err)
		}
		start, ok := token.(xml.StartElement)
		switch {
		case !ok:
		case !inBody:
			inBody = start.Name.Local == "Body"
		case method == "":
			method = start.Name.Local
		case start.Name.Local != "_this":
			return "", object, fmt.Errorf("%s begins with %s, not with _this", method, start.Name.Local)
		default:
			for _, a := range start.Attr {
				if a.Name.Local == "type" {
					object.Type = a.Value
				}
			}
			if err := dec.DecodeElement(&object.Value, &start); err != nil {
				return "", object, fmt.Errorf("object of %s: %w", method, err)
			}
			return method, object, nil
		}
	}
}

// writeFault answers with a SOAP fault.
func writeFault(w http.ResponseWriter, f SOAPFault) {
	kind := reflect.TypeOf(f.Fault).Elem().Name()
	var detail, message bytes.Buffer
	enc := vimxml.NewEncoder(&detail)
	err := enc.EncodeElement(f.Fault, vimxml.StartElement{
		Name: vimxml.Name{Local: kind + "Fault"},
		Attr: []vimxml.Attr{
			{Name: vimxml.Name{Local: "xmlns"}, Value: "urn:vim25"},
			{Name: vimxml.Name{Local: "xsi:type"}, Value: kind},
		},
	})
	if err == nil {
		err = xml.EscapeText(&message, []byte(f.Message))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>`+
		`<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">`+
		`<soapenv:Body><soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>%s</faultstring>`+
		`<detail>%s</detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>`, message.Bytes(), detail.Bytes())
}

func notAuthenticated(object types.ManagedObjectReference) SOAPFault {
	return SOAPFault{
		&types.NotAuthenticated{NoPermission: types.NoPermission{Object: &object, PrivilegeId: "System.View"}},
		"The session is not authenticated.",
	}
}

// lost is where answers go that the client is not to get.
type lost struct{ header http.Header }

func (l lost) Header() http.Header         { return l.header }
func (l lost) Write(p []byte) (int, error) { return len(p), nil }
func (l lost) WriteHeader(int)             {}

func withoutSession() []string { return []string{"RetrieveServiceContent", "Login"} }

// supported says whether the simulator answers for a method: its own, and those
// of govmomi's simulator that behave as vCenter does.
func supported(kind, method string) bool {
	methods := ""
	switch kind {
	case "ServiceInstance":
		methods = "RetrieveServiceContent CurrentTime"
	case "SessionManager":
		methods = "Login Logout SessionIsActive AcquireGenericServiceTicket"
	case "PropertyCollector":
		methods = "RetrieveProperties RetrievePropertiesEx ContinueRetrievePropertiesEx" +
			" CreatePropertyCollector DestroyPropertyCollector CreateFilter WaitForUpdatesEx CancelWaitForUpdates"
	case "PropertyFilter":
		methods = "DestroyPropertyFilter"
	case "ViewManager":
		methods = "CreateContainerView"
	case "ContainerView":
		methods = "DestroyView"
	case "AuthorizationManager":
		methods = "HasPrivilegeOnEntities"
	case "SearchIndex":
		methods = "FindByInventoryPath FindChild FindAllByUuid"
	case "VirtualMachine":
		methods = "CreateSnapshot_Task CreateSnapshotEx_Task RemoveAllSnapshots_Task RevertToCurrentSnapshot_Task" +
			" ConsolidateVMDisks_Task ReconfigVM_Task QueryChangedDiskAreas ExportVm PowerOnVM_Task PowerOffVM_Task ShutdownGuest"
	case "Task":
		methods = "CancelTask"
	case "VirtualMachineSnapshot":
		methods = "RemoveSnapshot_Task RevertToSnapshot_Task ExportSnapshot"
	case "HttpNfcLease":
		methods = "HttpNfcLeaseProgress HttpNfcLeaseComplete HttpNfcLeaseAbort"
	}
	return slices.Contains(strings.Fields(methods), method)
}
