package walls

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestNoWallIsBroken(t *testing.T) {
	g := loadGraph(t)
	for i := range rules {
		t.Run(rules[i].says, func(t *testing.T) {
			for _, b := range rules[i].check(g) {
				t.Error(b)
			}
		})
	}
}

func TestEveryPackageHasAPlaceInTheLayout(t *testing.T) {
	for path := range loadGraph(t) {
		if ours(path) && !inLayout(strings.TrimPrefix(path, module+"/")) {
			t.Errorf("%s is in no folder of the layout: add the folder, and the walls around it", path)
		}
	}
}

func inLayout(path string) bool {
	return slices.ContainsFunc(layout, func(folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") })
}

// A rule whose pattern matches nothing keeps nothing. Folders and modules may
// come later, but a pattern must name one that is meant to.
func TestNoRuleIsMisspelt(t *testing.T) {
	// Modules that the design names and that are not required yet.
	expected := []string{
		"github.com/jackc/pgx/v5/...",
		"github.com/masterzen/winrm/...", "github.com/cloudsoda/go-smb2/...",
		"github.com/aws/aws-sdk-go-v2/service/ec2/...", "github.com/aws/aws-sdk-go-v2/service/ebs/...",
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	known := func(pattern string) bool {
		bare := strings.TrimSuffix(pattern, "/...")
		if folder, ok := strings.CutPrefix(bare, "./"); ok || bare == "." {
			return bare == "." || inLayout(folder) || slices.ContainsFunc(layout, func(l string) bool { return strings.HasPrefix(l, folder+"/") })
		}
		standard := !strings.Contains(strings.SplitN(bare, "/", 2)[0], ".")
		return standard || slices.Contains(expected, pattern) || strings.Contains(string(mod), "\t"+bare)
	}
	for _, r := range rules {
		if r.says == "" || r.because == "" || len(r.from) == 0 || len(r.to) == 0 {
			t.Errorf("incomplete rule %+v", r)
		}
		for _, pattern := range slices.Concat(r.from, r.except, r.to, r.toExcept) {
			if !known(pattern) {
				t.Errorf("%q: %q names nothing", r.says, pattern)
			}
		}
	}
}

// edges is a graph that was made up: "a > b" is an import, "a t> b" one of a
// test file.
func edges(lines ...string) graph {
	g := graph{}
	at := func(path string) *node {
		if g[path] == nil {
			g[path] = &node{}
		}
		return g[path]
	}
	for _, line := range lines {
		f := strings.Fields(line)
		from := at(f[0])
		at(f[2])
		if f[1] == "t>" {
			from.tests = append(from.tests, f[2])
		} else {
			from.imports = append(from.imports, f[2])
		}
	}
	return g
}

func TestEachRuleIsBrokenByWhatItForbids(t *testing.T) {
	tests := map[string][]string{ // each line alone breaks the rule of that name, and no other
		"a source knows nothing of where its blocks go": {
			"skylift/hypervisor/vsphere > skylift/staging", "skylift/hypervisor > skylift/transfer",
			"skylift/hypervisor/vdisk t> skylift/connector", "skylift/hypervisor/azure > skylift/appliance/setup",
			"skylift/hypervisor/sourcetest > skylift/controlplane/catalog"},
		"vSphere imports no other source":                   {"skylift/hypervisor/vsphere > skylift/hypervisor/azure"},
		"Hyper-V imports no other source":                   {"skylift/hypervisor/hyperv/push > skylift/hypervisor/vsphere"},
		"Azure imports no other source":                     {"skylift/hypervisor/azure t> skylift/hypervisor/hyperv"},
		"what sources share imports no source":              {"skylift/hypervisor/vdisk > skylift/hypervisor/vsphere/soap", "skylift/hypervisor > skylift/hypervisor/azure"},
		"transfer sees the source contract, never a source": {"skylift/transfer > skylift/hypervisor/vsphere", "skylift/transfer t> skylift/hypervisor/azure"},
		"staging imports leaves only":                       {"skylift/staging > skylift/hypervisor", "skylift/staging/bucket > skylift/transfer"},
		"the format does not know where it is stored":       {"skylift/staging > skylift/staging/bucket", "skylift/staging > net/http", "skylift/staging > github.com/aws/aws-sdk-go-v2/aws"},
		"the control plane imports nothing of the connector's side": {
			"skylift/controlplane/image > skylift/hypervisor", "skylift/controlplane/image > skylift/transfer", "skylift/controlplane/link t> skylift/connector"},
		"the connector does not know the appliance around it": {"skylift/connector > skylift/appliance/host"},
		"the link is spoken by its two ends only":             {"skylift/controlplane/store > skylift/link", "skylift/transfer > skylift/link/linkv1", "skylift/cmd/connector > skylift/link"},
		"the store imports domain types, never the reverse":   {"skylift/controlplane/catalog > skylift/controlplane/store"},
		"simulators are imported by tests, cmd/skylift and the bench only": {
			"skylift/staging/bucket > skylift/internal/simulator/s3", "skylift/cmd/connector/sub > skylift/internal/simulator/aws"},
		"the try-out belongs to cmd/skylift":                          {"skylift/cmd/internal/connectord > skylift/cmd/internal/try"},
		"only cmd knows cmd":                                          {"skylift/transfer > skylift/cmd/internal/daemon", "skylift/connector t> skylift/cmd/internal/connectord"},
		"simulators import no product package":                        {"skylift/internal/simulator/vcenter > skylift/hypervisor", "skylift/internal/simulator/s3 t> skylift/staging"},
		"leaves import nothing of ours but other leaves":              {"skylift/internal/dial > skylift/staging", "skylift/internal/webkit > skylift/internal/dial"},
		"settings are known to cmd and the appliance only":            {"skylift/connector > skylift/config"},
		"only config knows viper":                                     {"skylift/cmd/connector > github.com/spf13/viper"},
		"only hypervisor/vsphere and the simulator know govmomi":      {"skylift/connector > github.com/vmware/govmomi/vim25/types"},
		"only hypervisor/hyperv and the simulator know WinRM and SMB": {"skylift/hypervisor/vsphere > github.com/masterzen/winrm", "skylift/hypervisor/vdisk > github.com/cloudsoda/go-smb2"},
		"only controlplane/store knows SQL":                           {"skylift/controlplane/catalog > database/sql", "skylift/controlplane/access t> github.com/pressly/goose/v3"},
		"only the simulator knows versitygw":                          {"skylift/staging/bucket t> github.com/versity/versitygw/s3api"},
		"the AWS configuration is loaded in cmd only":                 {"skylift/staging/bucket > github.com/aws/aws-sdk-go-v2/config"},
		"helpers of tests stay in tests":                              {"skylift/transfer > testing", "skylift/connector > skylift/internal/need", "skylift/cmd/skylift > skylift/staging/stagingtest"},
		"the connector's binary carries no SQL, EC2, versitygw or simulator": {
			"skylift/cmd/connector > github.com/aws/aws-sdk-go-v2/service/ec2",
			"skylift/cmd/connector > example.com/a; example.com/a > database/sql"},
		"the control plane's binary carries no govmomi, WinRM, versitygw or simulator": {
			"skylift/cmd/controlplane > example.com/a; example.com/a > github.com/vmware/govmomi/vim25",
			"skylift/cmd/controlplane > example.com/a; example.com/a > skylift/internal/simulator/aws"},
	}
	for _, r := range rules {
		if _, ok := tests[r.says]; !ok {
			t.Errorf("no made-up graph breaks %q", r.says)
		}
	}
	for says, lines := range tests {
		for _, line := range lines {
			var broken []string
			for i := range rules {
				for _, b := range rules[i].check(edges(strings.Split(line, ";")...)) {
					broken = append(broken, b.rule.says)
				}
			}
			if !slices.Equal(broken, []string{says}) {
				t.Errorf("%s breaks %q, want %q", line, broken, says)
			}
		}
	}
}

func TestWhatIsAllowedBreaksNoRule(t *testing.T) {
	g := edges(
		"skylift/transfer > skylift/hypervisor",
		"skylift/transfer > skylift/staging",
		"skylift/transfer t> skylift/staging/stagingtest",
		"skylift/connector > skylift/link/linkv1",
		"skylift/controlplane/link > skylift/link",
		"skylift/controlplane/link t> skylift/controlplane/store",
		"skylift/controlplane/store > skylift/controlplane/catalog",
		"skylift/controlplane/store > database/sql",
		"skylift/controlplane/image > skylift/staging",
		"skylift/hypervisor/vsphere > skylift/hypervisor/vdisk",
		"skylift/hypervisor/vsphere > github.com/vmware/govmomi/vim25",
		"skylift/hypervisor/vsphere t> skylift/internal/simulator/vcenter",
		"skylift/hypervisor/vsphere t> skylift/hypervisor/sourcetest",
		"skylift/hypervisor/vsphere > skylift/internal/dial",
		"skylift/staging/bucket > skylift/staging",
		"skylift/staging/bucket t> skylift/internal/simulator/s3",
		"skylift/internal/simulator/s3 > skylift/internal/secret",
		"skylift/internal/simulator/s3 > github.com/versity/versitygw/s3api",
		"skylift/internal/simulator/vcenter > github.com/vmware/govmomi/vim25",
		"skylift/internal/dial > skylift/internal/problem",
		"skylift/config > github.com/spf13/viper",
		"skylift/appliance/setup > skylift/config",
		"skylift/cmd/connector > skylift/config",
		"skylift/cmd/connector > skylift/connector",
		"skylift/cmd/connector > skylift/hypervisor/vsphere",
		"skylift/cmd/controlplane > skylift/controlplane/store",
		"skylift/cmd/controlplane > github.com/aws/aws-sdk-go-v2/config",
		"skylift/cmd/skylift > skylift/internal/simulator/s3",
		"skylift/cmd/skylift > skylift/cmd/internal/try",
		"skylift/cmd/internal/try > skylift/internal/simulator/vcenter",
		"skylift/cmd/connector > github.com/google/uuid",
		"github.com/google/uuid > database/sql/driver",
	)
	for i := range rules {
		for _, b := range rules[i].check(g) {
			t.Error(b)
		}
	}
}

func TestAClosureIsFollowedToItsEnd(t *testing.T) {
	g := edges(
		"skylift/cmd/connector > skylift/connector",
		"skylift/connector > example.com/a",
		"example.com/a > example.com/b",
		"example.com/b > example.com/a",
		"example.com/b > database/sql",
		"skylift/connector t> skylift/internal/simulator/s3",
		"skylift/cmd/controlplane > skylift/staging",
		"skylift/staging > example.com/c",
		"example.com/c > github.com/masterzen/winrm/soap",
	)
	var chains []string
	for i := range rules {
		if rules[i].closure {
			for _, b := range rules[i].check(g) {
				chains = append(chains, strings.Join(b.chain, " > "))
			}
		}
	}
	want := []string{
		"skylift/cmd/connector > skylift/connector > example.com/a > example.com/b > database/sql",
		"skylift/cmd/controlplane > skylift/staging > example.com/c > github.com/masterzen/winrm/soap",
	}
	if !slices.Equal(chains, want) {
		t.Errorf("found %q, want %q", chains, want)
	}
}

func TestABreachSaysTheRuleItsReasonAndTheChain(t *testing.T) {
	r := rule{says: "a does not know b", because: "b is above a", from: []string{"a"}, to: []string{"b"}}
	got := r.check(edges("a t> b"))
	if len(got) != 1 {
		t.Fatalf("found %v", got)
	}
	want := "a does not know b\n  because b is above a\n  but a\n    imports in its tests b"
	if got[0].String() != want {
		t.Errorf("it says %q, want %q", got[0], want)
	}
}

func TestAPatternMatchesWholeElementsOfAPath(t *testing.T) {
	for _, test := range []struct {
		pattern, path string
		want          bool
	}{
		{"./link", "skylift/link", true},
		{"./link", "skylift/link/linkv1", false},
		{"./link/...", "skylift/link", true},
		{"./link/...", "skylift/link/linkv1", true},
		{"./link/...", "skylift/linkage", false},
		{"./link/...", "skylift/controlplane/link", false},
		{"./...", "skylift/link", true},
		{"./...", "skylifter/link", false},
		{"testing/...", "testing/synctest", true},
		{"testing/...", "skylift/testing", false},
	} {
		if got := match(test.pattern, test.path); got != test.want {
			t.Errorf("%q matches %q: %v", test.pattern, test.path, got)
		}
	}
}
