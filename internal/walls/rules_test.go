package walls

// rule is a wall: packages that match from, but not except, must not import
// what matches to, but not toExcept. Their tests must not either, unless
// testsMay. With closure it is about all that the packages pull in, without
// tests.
type rule struct {
	says     string
	because  string
	from     []string
	except   []string
	to       []string
	toExcept []string
	testsMay bool
	closure  bool
}

// layout is every folder that the module has or will have. A package elsewhere
// is refused, so that no folder grows up outside the walls; and a rule that
// names none of these folders is misspelt.
var layout = []string{
	"cmd/connector", "cmd/controlplane", "cmd/appliance", "cmd/skylift",
	"cmd/internal/bench", "cmd/internal/connectord", "cmd/internal/controlplaned", "cmd/internal/daemon", "cmd/internal/operate", "cmd/internal/try",
	"connector", "transfer", "staging", "link", "config", "docs", "packer",
	"hypervisor", "hypervisor/sourcetest", "hypervisor/vdisk", "hypervisor/vsphere", "hypervisor/hyperv", "hypervisor/azure",
	"appliance",
	"controlplane/api", "controlplane/link", "controlplane/access", "controlplane/reconcile",
	"controlplane/catalog", "controlplane/replication", "controlplane/image", "controlplane/application",
	"controlplane/notify", "controlplane/audit", "controlplane/store", "controlplane/web",
	"internal/secret", "internal/problem", "internal/dial", "internal/bandwidth", "internal/webkit", "internal/simulator",
	"internal/need", "internal/proxytest", "internal/problemdoc", "internal/walls",
}

// Foreign packages that only some of ours may know. Of database/sql's folder only
// the package itself is an engine: driver is interfaces, and others' types keep
// them without any database.
var (
	sqlEngine = []string{"database/sql", "modernc.org/sqlite/...", "github.com/pressly/goose/v3/...", "github.com/jackc/pgx/v5/..."}
	sql       = append([]string{"database/sql/..."}, sqlEngine...)
	ec2       = []string{"github.com/aws/aws-sdk-go-v2/service/ec2/...", "github.com/aws/aws-sdk-go-v2/service/ebs/..."}
	govmomi   = []string{"github.com/vmware/govmomi/..."}
	winrm     = []string{"github.com/masterzen/winrm/...", "github.com/cloudsoda/go-smb2/..."}
	versity   = []string{"github.com/versity/versitygw/..."}
	viper     = []string{"github.com/spf13/viper/..."}
	awsConfig = []string{"github.com/aws/aws-sdk-go-v2/config/..."}
	simulator = []string{"./internal/simulator/..."}
	everyone  = []string{"./..."}
)

// sources are the packages that each know one kind of platform.
var sources = []string{"./hypervisor/vsphere/...", "./hypervisor/hyperv/...", "./hypervisor/azure/..."}

var rules = []rule{
	{
		says:    "a source knows nothing of where its blocks go",
		because: "each platform is added, tried and replaced through the contract alone, and no staging, link or control plane detail may leak into one",
		from:    []string{"./hypervisor/..."},
		to:      []string{"./transfer/...", "./staging/...", "./link/...", "./connector/...", "./appliance/...", "./controlplane/..."},
	},
	{
		says:    "vSphere imports no other source",
		because: "what two sources need belongs to the contract or to vdisk, where the third finds it too",
		from:    sources[:1], to: sources[1:],
	},
	{
		says:    "Hyper-V imports no other source",
		because: "what two sources need belongs to the contract or to vdisk, where the third finds it too",
		from:    sources[1:2], to: []string{sources[0], sources[2]},
	},
	{
		says:    "Azure imports no other source",
		because: "what two sources need belongs to the contract or to vdisk, where the third finds it too",
		from:    sources[2:], to: sources[:2],
	},
	{
		says:    "what sources share imports no source",
		because: "the contract, its conformance suite and vdisk are below all sources",
		from:    []string{"./hypervisor/..."}, except: sources, to: sources,
	},
	{
		says:    "transfer sees the source contract, never a source",
		because: "one pipeline moves every platform's blocks; a special case for one belongs behind the contract",
		from:    []string{"./transfer/..."}, to: sources,
	},
	{
		says:    "staging imports leaves only",
		because: "the format is shared by both sides and by readers of other makes: it must stand alone",
		from:    []string{"./staging/..."}, to: everyone, toExcept: []string{"./staging/...", "./internal/..."},
	},
	{
		says:    "the format does not know where it is stored",
		because: "package staging is pure: it encodes, decodes and checks, and bucket is built on it",
		from:    []string{"./staging"}, to: []string{"./staging/bucket/...", "github.com/aws/...", "net/http"},
	},
	{
		says:    "the control plane imports nothing of the connector's side",
		because: "data flows one way; the two sides share the staging format and the link, and nothing else",
		from:    []string{"./controlplane/..."}, to: []string{"./hypervisor/...", "./transfer/...", "./connector/...", "./appliance/..."},
	},
	{
		says:    "the connector does not know the appliance around it",
		because: "the daemon runs on any machine; what makes a VM an appliance is built around it",
		from:    []string{"./connector/..."}, to: []string{"./appliance/..."},
	},
	{
		says:    "the link is spoken by its two ends only",
		because: "generated messages stay at the edge: behind it each side has types of its own",
		from:    everyone, except: []string{"./link/...", "./connector/...", "./controlplane/link/..."}, to: []string{"./link/..."},
	},
	{
		says:    "the store imports domain types, never the reverse",
		because: "domains declare what they need of a store, so that their rules can be read and tested without SQL",
		from:    []string{"./controlplane/..."}, except: []string{"./controlplane/store/..."}, to: []string{"./controlplane/store/..."},
		testsMay: true,
	},
	{
		says:    "simulators are imported by tests, cmd/skylift and the bench only",
		because: "a simulator that the product reaches is a back door, and dead weight in its binaries",
		from:    everyone, except: []string{"./internal/simulator/...", "./cmd/skylift/...", "./cmd/internal/try/...", "./cmd/internal/bench/..."}, to: simulator,
		testsMay: true,
	},
	{
		says:    "the try-out belongs to cmd/skylift",
		because: "it is a part of that command in a folder of its own, and knows the simulators",
		from:    everyone, except: []string{"./cmd/skylift/...", "./cmd/internal/try/..."}, to: []string{"./cmd/internal/try/..."},
	},
	{
		says:    "only cmd knows cmd",
		because: "mains and what they are made of plug the rest together; nothing is built on them",
		from:    everyone, except: []string{"./cmd/..."}, to: []string{"./cmd/..."},
	},
	{
		says:    "simulators import no product package",
		because: "a format is written by one hand and read by another: a mistake that both share would not be seen",
		from:    simulator, to: everyone, toExcept: []string{"./internal/..."},
	},
	{
		says:    "leaves import nothing of ours but other leaves",
		because: "everything may import internal/, so it must pull in nothing",
		from:    []string{"./internal/..."}, except: simulator, to: everyone,
		toExcept: []string{"./internal/secret", "./internal/problem", "./internal/need"}, testsMay: true,
	},
	{
		says:    "settings are known to cmd and the appliance only",
		because: "a package asks for what it needs in types of its own; cmd translates",
		from:    everyone, except: []string{"./config/...", "./cmd/...", "./appliance/..."}, to: []string{"./config/..."},
	},
	{
		says:    "only config knows viper",
		because: "where a setting comes from is decided in one place",
		from:    everyone, except: []string{"./config/..."}, to: viper,
	},
	{
		says:    "only hypervisor/vsphere and the simulator know govmomi",
		because: "vSphere's types must not leak through the contract",
		from:    everyone, except: []string{"./hypervisor/vsphere/...", "./internal/simulator/..."}, to: govmomi,
	},
	{
		says:    "only hypervisor/hyperv and the simulator know WinRM and SMB",
		because: "Hyper-V's ways in must not leak through the contract",
		from:    everyone, except: []string{"./hypervisor/hyperv/...", "./internal/simulator/..."}, to: winrm,
	},
	{
		says:    "only controlplane/store knows SQL",
		because: "two databases, one set of statements: they are kept in one place",
		from:    everyone, except: []string{"./controlplane/store/..."}, to: sql,
	},
	{
		says:    "only the simulator knows versitygw",
		because: "it is the S3 server of tests and of the try-out, not of the product",
		from:    everyone, except: simulator, to: versity,
	},
	{
		says:    "the AWS configuration is loaded in cmd only",
		because: "credentials and Region are passed in, so that a package never picks up the environment's",
		from:    everyone, except: []string{"./cmd/..."}, to: awsConfig,
	},
	{
		says:    "helpers of tests stay in tests",
		because: "package testing registers flags and stops goroutines in its own way: no binary of the product carries it",
		from:    everyone, except: []string{"./internal/need", "./internal/proxytest", "./staging/stagingtest", "./hypervisor/sourcetest", "./hypervisor/vsphere/nbd/nbdtest", "./internal/simulator/..."},
		to: []string{"testing/...", "./internal/need", "./internal/proxytest", "./staging/stagingtest", "./hypervisor/sourcetest", "./hypervisor/vsphere/nbd/nbdtest"}, testsMay: true,
	},
	{
		says:    "the connector's binary carries no SQL, EC2, versitygw or simulator",
		because: "the appliance is small, and what it cannot do it cannot be made to do",
		from:    []string{"./cmd/connector"}, to: union(sqlEngine, ec2, versity, simulator), closure: true,
	},
	{
		says:    "the control plane's binary carries no govmomi, WinRM, versitygw or simulator",
		because: "it never talks to a source; the connector does",
		from:    []string{"./cmd/controlplane"}, to: union(govmomi, winrm, versity, simulator), closure: true,
	},
}
