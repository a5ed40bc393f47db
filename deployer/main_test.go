package deployer_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/deployer"
	"github.com/solo-os/solo/proto/subject"
)

func TestMisuse(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"help":        {[]string{"--help"}, 0, "SOLO_BUILD_CACHE"},
		"version":     {[]string{"--version"}, 0, "solo-deployer "},
		"flag":        {[]string{"--nothing"}, 2, "nothing"},
		"argument":    {[]string{"x"}, 2, "unexpected"},
		"no identity": {nil, 2, "kernel starts"},
		"build":       {[]string{"build"}, 2, "usage"},
	} {
		var out bytes.Buffer
		if code := deployer.Main(t.Context(), c.args, strings.NewReader(""), &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: %d, %s", name, code, &out)
		}
	}
}

func TestWithoutItsHelpersItDoesNotStart(t *testing.T) {
	w := bustest.Start(t)
	err := deployer.Run(t.Context(), w.Process(t, subject.Deployer), deployer.Config{BinDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "solo-runner is missing") {
		t.Error(err)
	}
}
