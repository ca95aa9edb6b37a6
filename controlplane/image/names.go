package image

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"skylift/staging"
)

const (
	imagePrefix = "img-"
	runPrefix   = "sms-run-"
	recordName  = "image.json"
)

// ID returns the ID of a run's local image.
func ID(run string) string { return imagePrefix + strings.TrimPrefix(run, runPrefix) }

// folder makes one path element of a name that may hold anything: letters and
// digits of any script, dots, underscores and hyphens stay, and hyphens stand
// for all else.
func folder(name string) string {
	var b strings.Builder
	last := '-'
	for _, r := range name {
		if r == utf8.RuneError || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-", r) {
			r = '-'
		}
		if r == '-' && last == '-' {
			continue
		}
		if b.Len()+utf8.RuneLen(r) > 64 {
			break
		}
		b.WriteRune(r)
		last = r
	}
	return strings.Trim(b.String(), ".-")
}

// diskFile names a disk's file for people: its place and its name; the key
// keeps two of the same name apart.
func diskFile(position int, name, key string, taken map[string]bool) string {
	file := fmt.Sprintf("%d.raw", position)
	if clean := folder(name); clean != "" {
		file = fmt.Sprintf("%d-%s.raw", position, clean)
	}
	if taken[strings.ToLower(file)] {
		file = strings.TrimSuffix(file, ".raw") + "-" + key + ".raw"
	}
	taken[strings.ToLower(file)] = true
	return file
}

// checkNames errs unless the names are safe in keys and paths.
func checkNames(job string, runs ...string) error {
	for _, run := range runs {
		if err := (staging.Place{Job: job, Run: run, Disk: "disk"}).Validate(); err != nil {
			return err
		}
	}
	return nil
}
