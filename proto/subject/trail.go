package subject

// Subjects of the audit trail's consumers: by them, and by nothing else of JetStream, a holder of
// `audit=read` reads the trail with any NATS client. Each consumer has its holder's id for a name.

const (
	// TrailStream is the stream that the consumers read.
	TrailStream = "AUDIT"
	// TrailDomain is what a client sets as its JetStream domain. `$JS.API.` without one is
	// answered by the holder's own account, where there is no JetStream.
	TrailDomain = "audit"
)

// TrailNext is $JS.audit.API.CONSUMER.MSG.NEXT.AUDIT.<id>: asks for records.
func TrailNext(id string) string { return "$JS." + TrailDomain + TrailServingNext + id }

// TrailInfo is $JS.audit.API.CONSUMER.INFO.AUDIT.<id>: how far the consumer is.
func TrailInfo(id string) string { return "$JS." + TrailDomain + TrailServingInfo + id }

// TrailAck is $JS.ACK.AUDIT.<id>.*.*.*.*.*: that a record was read. The tokens after the id are
// the server's, of this delivery; it is the one subject of a holder that does not end in its id.
func TrailAck(id string) string { return "$JS.ACK." + TrailStream + "." + id + ".*.*.*.*.*" }

// What follows `$JS.<domain>`, or `$JS` where JetStream is.
const (
	// TrailServingNext is .API.CONSUMER.MSG.NEXT.AUDIT.
	TrailServingNext = ".API.CONSUMER.MSG.NEXT." + TrailStream + "."
	// TrailServingInfo is .API.CONSUMER.INFO.AUDIT.
	TrailServingInfo = ".API.CONSUMER.INFO." + TrailStream + "."
)
