package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"skylift/controlplane/api/model"
	"skylift/controlplane/api/sms"
)

// decode returns the request as JSON that fits the action's input shape.
// Members that the shape does not have are dropped, as AWS does.
func (h *Handler) decode(r *http.Request, o *model.Operation, body []byte) ([]byte, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != sms.ContentType {
		return nil, unreadable("the Content-Type must be " + sms.ContentType)
	}
	doc, err := parse(body)
	if err != nil {
		return nil, unreadable("the request's body is not a JSON document: " + err.Error())
	}
	kept, violations := h.model.Check(o.Input.Shape, doc)
	if err := judge(violations); err != nil {
		return nil, err
	}
	return json.Marshal(kept)
}

// parse reads one JSON document; nothing at all stands for an empty object.
func parse(body []byte) (any, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return map[string]any{}, nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the document")
	}
	return doc, nil
}

// judge makes an error of the gravest kind of violations; they come sorted.
func judge(violations []model.Violation) error {
	if len(violations) == 0 {
		return nil
	}
	const told = 5
	var lines, names []string
	gravest := violations[0].Fault
	for _, v := range violations {
		if v.Fault == gravest && len(lines) < told {
			lines = append(lines, cmp.Or(v.Path, "the request")+" must be "+v.Want)
			names = append(names, v.Path)
		}
	}
	switch gravest {
	case model.Mistyped:
		return unreadable(strings.Join(lines, "; "))
	case model.Missing:
		return missing("the request lacks %s", strings.Join(names, ", "))
	case model.Invalid:
		return invalid("%s", strings.Join(lines, "; "))
	}
	return nil
}

func unreadable(message string) error {
	return failure{sms.Serialization, http.StatusBadRequest, message}
}
