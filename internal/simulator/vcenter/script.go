package vcenter

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// ParseScript makes a Config.Fault of a text with one rule per line; the package
// comment describes them. Blank lines and lines that begin with # say nothing.
// An error names the line.
func ParseScript(text string) (func(Call) error, error) {
	s := &script{}
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		r, err := parseRule(line)
		if err != nil {
			return nil, fmt.Errorf("fault script, line %d: %w", n+1, err)
		}
		s.rules = append(s.rules, r)
	}
	return s.fault, nil
}

// script is rules, asked in their order.
type script struct {
	mu    sync.Mutex
	rules []*rule
}

// rule is one line.
type rule struct {
	method             string // "GET /folder", a SOAP method, or * for all
	path, object, host string // patterns; empty for any
	task               bool
	first, last, every int // of the calls that the rest fits; 0 where not given
	seen               int

	err     error         // to fail with
	latency time.Duration // or to wait for
}

// fault is Config.Fault: latencies add up, the first other rule that fits decides.
func (s *script) fault(c Call) error {
	var wait time.Duration
	var decided error
	s.mu.Lock()
	for _, r := range s.rules {
		switch {
		case !r.fits(c):
		case r.err == nil:
			wait += r.latency
		case decided == nil:
			decided = r.err
		}
	}
	s.mu.Unlock()
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.Context.Done():
			return c.Context.Err()
		}
	}
	return decided
}

// fits counts the call if it is one of the rule's, and says whether it is the
// rule's turn.
func (r *rule) fits(c Call) bool {
	if r.task != c.Task || r.method != "*" && r.method != c.Method {
		return false
	}
	if r.path != "" && !matches(r.path, c.Path) || r.host != "" && !matches(r.host, c.Host) {
		return false
	}
	if r.object != "" && !matches(r.object, c.Object.Value) && !matches(r.object, c.Object.String()) {
		return false
	}
	r.seen++
	if r.every > 0 {
		return r.seen%r.every == 0
	}
	return r.seen >= r.first && (r.last == 0 || r.seen <= r.last)
}

// matches compares with a pattern in which * is any text, slashes included.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, parts[0])
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		_, rest, found := strings.Cut(text, part)
		ok, text = ok && found, rest
	}
	return ok && strings.HasSuffix(text, parts[last])
}

func parseRule(line string) (*rule, error) {
	words, effect, err := splitRule(line)
	if err != nil {
		return nil, err
	}
	if len(words) == 0 {
		return nil, errors.New("it names no call before the colon")
	}
	r := &rule{method: words[0]}
	words = words[1:]
	if r.method == http.MethodGet || r.method == http.MethodHead {
		if len(words) == 0 || !strings.HasPrefix(words[0], "/") {
			return nil, fmt.Errorf("%s needs a place, as in %s /folder", r.method, r.method)
		}
		r.method += " " + words[0]
		words = words[1:]
	}
	for len(words) > 0 {
		used, err := r.selector(words)
		if err != nil {
			return nil, err
		}
		words = words[used:]
	}
	return r, r.effect(effect)
}

// splitRule cuts a line at the first colon that ends a word, and what is before
// it into words; quotes keep blanks and colons in a word.
func splitRule(line string) (words []string, effect string, err error) {
	rest := line
	for {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			return nil, "", errors.New(`it lacks what shall happen: "<call>: <effect>"`)
		}
		word := ""
		for rest != "" && rest[0] != ' ' && rest[0] != '\t' {
			if rest[0] == ':' && (len(rest) == 1 || rest[1] == ' ' || rest[1] == '\t') {
				if word != "" {
					words = append(words, word)
				}
				return words, strings.TrimSpace(rest[1:]), nil
			}
			if rest[0] != '"' {
				word, rest = word+rest[:1], rest[1:]
				continue
			}
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, "", fmt.Errorf("a quote is not closed: %s", rest)
			}
			plain, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, "", fmt.Errorf("%s is not a quoted text", quoted)
			}
			word, rest = word+plain, rest[len(quoted):]
		}
		words = append(words, word)
	}
}

// selector reads one selector and says how many words it took.
func (r *rule) selector(words []string) (used int, err error) {
	name, value, assigned := strings.Cut(words[0], "=")
	switch {
	case words[0] == "task":
		r.task = true
		return 1, nil
	case assigned && value != "" && name == "path":
		r.path = value
		return 1, nil
	case assigned && value != "" && name == "object":
		r.object = value
		return 1, nil
	case assigned && value != "" && name == "host":
		r.host = value
		return 1, nil
	case words[0] == "@every":
		if len(words) < 2 {
			return 0, errors.New("@every needs a number")
		}
		r.every, err = count(words[1])
		return 2, err
	case strings.HasPrefix(words[0], "@"):
		return 1, r.turn(words[0][1:])
	}
	return 0, fmt.Errorf("%q is none of task, path=, object=, host=, @<n>, @<n>-<m>, @<n>- and @every <n>", words[0])
}

// turn reads 3, 3-5 or 3-.
func (r *rule) turn(text string) (err error) {
	first, last, several := strings.Cut(text, "-")
	if r.first, err = count(first); err != nil {
		return err
	}
	switch {
	case !several:
		r.last = r.first
	case last != "":
		if r.last, err = count(last); err != nil {
			return err
		}
		if r.last < r.first {
			return fmt.Errorf("@%s ends before it begins", text)
		}
	}
	return nil
}

func count(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is not a number from 1", text)
	}
	return n, nil
}

// effect reads what shall happen.
func (r *rule) effect(text string) error {
	words := strings.Fields(text)
	switch {
	case len(words) == 1 && words[0] == "drop":
		r.err = ErrDropped
	case text == "answer lost":
		r.err = ErrAnswerLost
	case len(words) == 3 && words[0] == "after" && words[2] == "drop":
		n, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a number of bytes", words[1])
		}
		r.err = DropAfter(n)
	case len(words) == 2 && words[0] == "latency":
		d, err := time.ParseDuration(words[1])
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a duration, as 200ms is", words[1])
		}
		r.latency = d
		return nil
	case len(words) >= 2 && words[0] == "fault":
		return r.fail(words[1], strings.Join(words[2:], " "))
	case len(words) == 1:
		n, err := strconv.Atoi(words[0])
		if err != nil || n < 400 || n > 599 {
			return unknownEffect(text)
		}
		r.err = HTTPStatus(n)
	default:
		return unknownEffect(text)
	}
	if r.task {
		return fmt.Errorf("a task cannot end by %q: only by a fault, and it can take latency", text)
	}
	return nil
}

func unknownEffect(text string) error {
	return fmt.Errorf("%q is none of <status from 400 to 599>, drop, after <bytes> drop, answer lost, latency <duration> and fault <name> [message]", text)
}

// fail has the rule answer with a vSphere fault, by its name in VMware's API
// reference.
func (r *rule) fail(name, message string) error {
	kind, ok := types.TypeFunc()(name)
	if !ok || kind.Kind() != reflect.Struct {
		return fmt.Errorf("there is no vSphere fault %q", name)
	}
	fault, ok := reflect.New(kind).Interface().(types.BaseMethodFault)
	if !ok {
		return fmt.Errorf("%q is not a vSphere fault", name)
	}
	if strings.HasPrefix(r.method, http.MethodGet+" ") || strings.HasPrefix(r.method, http.MethodHead+" ") {
		return fmt.Errorf("a file is not answered with a vSphere fault: use a status")
	}
	if message == "" {
		message = "The fault " + name + " was asked for."
	}
	r.err = SOAPFault{fault, message}
	return nil
}
