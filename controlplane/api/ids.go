package api

import (
	"regexp"
)

// idForms has the form of every ID that the API gives out, by the member that
// carries it: the prefix of SMS and 8 to 32 hex digits.
var idForms = map[string]*regexp.Regexp{
	"connectorId":      idForm("c-"),
	"serverId":         idForm("s-"),
	"replicationJobId": idForm("sms-job-"),
	"replicationRunId": idForm("sms-run-"),
}

func idForm(prefix string) *regexp.Regexp {
	return regexp.MustCompile(`\A` + regexp.QuoteMeta(prefix) + `[0-9a-f]{8,32}\z`)
}

// checkID holds an ID against its member's form.
func checkID(member, id string) error {
	form := idForms[member]
	if form.MatchString(id) {
		return nil
	}
	f := form.String()
	return invalid("%s must be of the form %s", member, f[len(`\A`):len(f)-len(`\z`)])
}
