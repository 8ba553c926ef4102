package driver

// Reason codes of MQTT 5 that reactor acts upon [MQTT 5, 2.4]. An Ack and a
// DisconnectedError carry them.
const (
	CodeUnspecified            = 0x80
	CodeMalformedPacket        = 0x81
	CodeProtocolError          = 0x82
	CodeImplementationSpecific = 0x83
	CodeNotAuthorized          = 0x87
	CodeTopicNameInvalid       = 0x90
	// CodeInUse: the packet identifier is in use. Some brokers answer a repeated message with it
	// instead of another PUBREC.
	CodeInUse = 0x91
	// CodeUnknownSlot is a broker's answer to the release of a slot that it does not know:
	// packet identifier not found. Not every broker reports this.
	CodeUnknownSlot            = 0x92
	CodeReceiveMaximumExceeded = 0x93
	CodeTopicAliasInvalid      = 0x94
	CodePacketTooLarge         = 0x95
	CodeQuotaExceeded          = 0x97
	CodePayloadFormatInvalid   = 0x99
	CodeRetainNotSupported     = 0x9A
	CodeQoSNotSupported        = 0x9B
)
