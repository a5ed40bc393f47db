package embed

import (
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/door"
	"github.com/solo-os/solo/proto/subject"
)

// Accounts: the borders between the rings of Solo.
const (
	// Caller is where everyone is who asks: agents, and services when they call out.
	Caller = "CALLER"
	// Service is where those are who answer calls to services. It imports nothing.
	Service = "SERVICE"
	// Kernel is where the components are, and JetStream.
	Kernel = "KERNEL"
	// system is the server's own; nobody connects to it.
	system = "SYS"
)

const (
	// ReplyTime is how long the server keeps the way back of a request that crosses accounts: a
	// little longer than the longest time a caller may wait (10 min), so that the answer and not
	// the way back decides.
	ReplyTime = 10*time.Minute + 30*time.Second
	// StreamTime is the same for streams, counted from the last answer. The way back of a
	// stream ends with its reader's interest, so this only bounds what a reader forgets.
	StreamTime = 24 * time.Hour
)

// TrailTime is the same for requests to a consumer of the audit trail, counted from the last
// answer. Each leaves its way back behind for as long, unless nobody listens there any more: so
// it is short, and the door counts them.
const TrailTime = door.PullTime

// TrailWait is the longest time that a request to a consumer of the audit trail may wait.
const TrailWait = TrailTime / 2

// accounts is the static configuration of the accounts. Every import is a wildcard and keeps its
// subject: a literal or renamed one lets a reply be laundered through it. The exception are the
// two requests to a consumer of the audit trail, for CALLER's own $JS.API answers first. What is
// laundered through them names no consumer, for a reply of the server's has fewer tokens than
// the place of the consumer's name.
func accounts() string {
	imports, service, kernel := weaker()
	return fmt.Sprintf(`
accounts {
  %[1]s {
    limits { max_connections: 20000, max_subscriptions: 1024 }
    imports [
      { service: { account: %[3]s, subject: "sys.>" } }
      { service: { account: %[3]s, subject: "str.>" } }
      { service: { account: %[2]s, subject: "svc.>" } }
      { service: { account: %[3]s, subject: "$JS%[10]s*" }, to: "%[11]s" }
      { service: { account: %[3]s, subject: "$JS%[12]s*" }, to: "%[13]s" }
      { service: { account: %[3]s, subject: "%[14]s" } }
      %[7]s
    ]
  }
  %[2]s {
    limits { max_connections: 20000, max_subscriptions: 16 }
    exports [
      { service: "svc.>", accounts: [%[1]s], response: single, threshold: "%[5]s" }
      %[8]s
    ]
  }
  %[3]s {
    jetstream: enabled
    limits { max_connections: 4096, max_subscriptions: 4096 }
    exports [
      { service: "sys.>", accounts: [%[1]s], response: single, threshold: "%[5]s" }
      { service: "str.>", accounts: [%[1]s], response: stream, threshold: "%[6]s" }
      { service: "$JS%[10]s*", accounts: [%[1]s], response: stream, threshold: "%[15]s" }
      { service: "$JS%[12]s*", accounts: [%[1]s], response: single, threshold: "%[15]s" }
      { service: "%[14]s", accounts: [%[1]s], response: single, threshold: "%[15]s" }
      %[9]s
    ]
  }
  %[4]s {}
}
system_account: %[4]s
`, Caller, Service, Kernel, system, ReplyTime, StreamTime, imports, service, kernel,
		subject.TrailServingNext, subject.TrailNext("*"), subject.TrailServingInfo, subject.TrailInfo("*"), subject.TrailAck("*"), TrailTime)
}

// weaker is what a configuration that somebody might well write has besides, in builds that
// have the check off: imports into CALLER and the exports of SERVICE and KERNEL for them.
func weaker() (imports, service, kernel string) {
	if !check.On(check.Borders) {
		imports = `
      { service: { account: KERNEL, subject: "$JS.API.>" }, to: "$JS.kernel.API.>" }
      { service: { account: KERNEL, subject: "$KV.>" } }
      { service: { account: SERVICE, subject: "rev.>" } }`
		service = `{ service: "rev.>", accounts: [CALLER] }`
		kernel = `{ service: "$JS.API.>", accounts: [CALLER] }, { service: "$KV.>", accounts: [CALLER] }`
	}
	if !check.On(check.ImportShape) {
		imports += `
      { service: { account: KERNEL, subject: "sys.registry.list.-.-.laundered" }, to: "shortcut" }`
	}
	return imports, service, kernel
}

// options is the server's whole configuration. What is not set here is off: monitoring,
// routes, gateways, leaf nodes, WebSocket, MQTT, profiling.
//
// addr is where the door listens: the server listens nowhere, but tells clients of it.
func options(o Options, addr string) (*server.Options, error) {
	so := &server.Options{}
	if err := so.ProcessConfigString(accounts()); err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	host, port, err := loopback(addr)
	if err != nil {
		return nil, err
	}
	so.ServerName, so.Host, so.Port, so.DontListen = o.Name, host, port, true
	so.NoSigs, so.AlwaysEnableNonce = true, true

	so.JetStream, so.StoreDir, so.SyncAlways = true, o.StoreDir, true
	so.DisableJetStreamBanner = true

	so.MaxPayload = MaxPayload
	so.MaxConn = 50_000
	so.MaxSubs = 4096
	so.MaxSubTokens = 16
	so.MaxControlLine = 4096
	so.MaxPending = 32 << 20
	so.WriteDeadline = 5 * time.Second
	so.AuthTimeout = 2
	so.NoFastProducerStall = true
	so.PingInterval = 20 * time.Second
	so.MaxPingsOut = 3
	so.MaxClosedClients = 100
	return so, nil
}
