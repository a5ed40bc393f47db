package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file beside the input, after squeezing what protojson leaves unstable.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Errorf("%s differs:\n%s", path, got)
	}
}

func TestGolden(t *testing.T) {
	for _, in := range []string{"full.yaml", "minimal.yaml", "small.json"} {
		t.Run(in, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("testdata", in))
			if err != nil {
				t.Fatal(err)
			}
			doc, err := Parse(in, b)
			if err != nil {
				t.Fatal(err)
			}
			j, err := protojson.Marshal(doc.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer // without the spaces, which protojson varies on purpose
			if err := json.Compact(&text, j); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", in+".message"), []byte(text.String()+"\n"+doc.Source+"\n"))
			y, err := Format(doc)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", in+".formatted"), y)
			again, err := Parse(in, y)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(again.Manifest, doc.Manifest) || again.Source != doc.Source {
				t.Errorf("what Format wrote reads as\n%v\nnot as\n%v", again.Manifest, doc.Manifest)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	head := "name: acme/echo\nformat: go\n"
	for _, c := range []struct{ name, in, want string }{
		{"near miss", head + "replica: 2\n", `m.yaml:3:1: replica: unknown field (did you mean "replicas"?)`},
		{"dash for underscore", head + "limits:\n  calls-per-second: 2\n", `m.yaml:4:3: limits.calls-per-second: unknown field (did you mean "calls_per_second"?)`},
		{"far miss", head + "restart: {colour: red}\n", "restart.colour: unknown field: the fields here are max, type, within"},
		{"twice", head + "format: wasm\n", "m.yaml:3:1: format: is given twice"},
		{"no name", "format: go\n", "m.yaml: name: is missing: want namespace/name"},
		{"no format", "name: a/b\n", "m.yaml: format: is missing: want go, wasm, binary"},
		{"empty", "", "m.yaml: is empty: want at least name, format and source"},
		{"comments only", "# nothing\n", "m.yaml: is empty"},
		{"bad name", "name: Acme\nformat: go\n", `m.yaml:1:7: name: "Acme" is no service name`},
		{"bad format", "name: a/b\nformat: gow\n", `format: "gow" is no format (did you mean "go"?)`},
		{"bad enum", head + "restart: {type: permanant}\n", `(did you mean "permanent"?): want permanent, transient, temporary`},
		{"protocol with go", head + "protocol: http\n", "m.yaml:3:11: protocol: contradicts format go: only a binary has a protocol"},
		{"args with go", head + "args: [x]\n", "args: contradicts format go"},
		{"steps with rolling", head + "update: {strategy: rolling, steps: [{weight: 1}]}\n", "update.steps: contradicts strategy rolling"},
		{"steps with default", head + "update: {steps: [{weight: 1}]}\n", "contradicts strategy recreate, the default"},
		{"surge with canary", head + "update: {strategy: canary, max_surge: 1}\n", "update.max_surge: contradicts strategy canary"},
		{"nothing may move", head + "update: {strategy: rolling, max_surge: 0, max_unavailable: 0}\n", "with both 0"},
		{"steps shrink", head + "update: {strategy: canary, steps: [{weight: 50}, {weight: 10}]}\n", "update.steps[1].weight: 10 does not grow"},
		{"max of temporary", head + "restart: {type: temporary, max: 2}\n", "restart.max: contradicts type temporary"},
		{"size", head + "limits: {memory: 64MB}\n", `limits.memory: "64MB" is no size: want a whole number of bytes, or one with Ki, Mi or Gi`},
		{"size small", head + "limits: {memory: 1Ki}\n", "1Ki is out of range: want 64Ki to 4Gi"},
		{"cpu", head + "limits: {cpu: half}\n", "is no CPU share"},
		{"duration", head + "operations: [{name: a, timeout: 5}]\n", `operations[0].timeout: "5" is no duration`},
		{"duration long", head + "operations: [{name: a, timeout: 1h}]\n", "1h is out of range: want 0s to 10m"},
		{"operation twice", head + "operations: [{name: a}, {name: a}]\n", `operations[1].name: operation "a" is given twice`},
		{"operation nameless", head + "operations: [{timeout: 1s}]\n", "operations[0].name: is missing"},
		{"operation name", head + "operations: [{name: A}]\n", `"A" is no operation name`},
		{"rule", head + "grants: [\"svc:acme/x=fly\"]\n", `grants[0]: rule "svc:acme/x=fly": verb "fly"`},
		{"match", head + "state: {keys: [{match: \"a*b*\", mode: none}]}\n", "a prefix followed by one *"},
		{"mode missing", head + "state: {keys: [{match: a}]}\n", "state.keys[0].mode: is missing"},
		{"env name", head + "env: {1st: 1}\n", `"1st" is no name of a variable`},
		{"env ours", head + "env: {SOLO_X: 1}\n", "names beginning with SOLO_ are Solo's own"},
		{"env twice", head + "env: {A: 1, A: 2}\n", "env.A: is given twice"},
		{"null", head + "limits:\n", "limits: has no value"},
		{"kind", head + "limits: 3\n", "limits: is a single value: want a mapping of fields"},
		{"kind list", head + "grants: {a: b}\n", "grants: is a mapping of fields: want a list"},
		{"scalar", head + "replicas: [1]\n", "replicas: is a list: want a single value"},
		{"count", head + "replicas: -1\n", `replicas: "-1" is no count`},
		{"zero", head + "replicas: 0\n", "0 is out of range: want 1 to 1000"},
		{"number", head + "update: {max_error_rate: lots}\n", "is no number"},
		{"alias", head + "env: &x {A: 1}\nlimits: *x\n", "anchors and aliases are not read here"},
		{"digest", head + "source: sha256:12\n", "want sha256: and 64 hex digits"},
		{"two documents", head + "---\n" + head, "more than one document"},
		{"not yaml", "name: [\n", "did not find expected node content at line 2, column 1"},
		{"no mapping", "- a\n", "is a list: want a mapping of fields"},
		{"odd key", "[a]: b\n", "whose name is a list"},
		{"large", strings.Repeat("#", MaxBytes+1), "at most 1048576"},
		{"description", head + "operations: [{name: a, description: " + strings.Repeat("x", 1025) + "}]\n", "at most 1024"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("m.yaml", []byte(c.in))
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got\n%v\nwant\n%s", err, c.want)
			}
		})
	}
}

// What may be right with the format that is missing is no contradiction.
func TestAMissingFormatIsTheOneProblem(t *testing.T) {
	_, err := Parse("m.yaml", []byte("name: a/b\nprotocol: http\nenv: {lower_Case1: x}\n"))
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 1 {
		t.Error(err)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := Parse("m.yaml", []byte("nam: x\nformat: elf\nreplicas: many\n"))
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 3 {
		t.Fatalf("%v", err)
	}
}

func TestUnits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, 1<<50).Draw(t, "size")
		if got, err := ParseSize(FormatSize(n)); err != nil || got != n {
			t.Fatalf("size %d: %s, %d, %v", n, FormatSize(n), got, err)
		}
		c := rapid.Uint32Range(0, 1_000_000).Draw(t, "cpu")
		if got, err := ParseCPU(FormatCPU(c)); err != nil || got != c {
			t.Fatalf("cpu %d: %s, %d, %v", c, FormatCPU(c), got, err)
		}
		d := time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "duration"))
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("duration %d: %s, %d, %v", d, FormatDuration(d), got, err)
		}
	})
	for s, want := range map[string]uint32{"2": 2000, "0.5": 500, "0.125": 125, "1.50": 1500, "500m": 500} {
		if got, err := ParseCPU(s); err != nil || got != want {
			t.Errorf("%s: %d %v", s, got, err)
		}
	}
	for _, s := range []string{"", "m", "1.", ".5", "1.2345", "-1", "1e3", "x"} {
		if got, err := ParseCPU(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
	for _, s := range []string{"", "Mi", "1.5Gi", "-1", "99999999999Gi", "1 Mi", "1MiB"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, in := range []string{"full.yaml", "minimal.yaml", "small.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", in))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, err := Parse("m.yaml", b)
		if err != nil {
			return
		}
		y, err := Format(doc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("m.yaml", y)
		if err != nil || !proto.Equal(again.Manifest, doc.Manifest) || again.Source != doc.Source {
			t.Errorf("%v\n%s\n%v\n%v", err, y, doc.Manifest, again)
		}
	})
}
