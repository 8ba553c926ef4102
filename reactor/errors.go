package reactor

import "github.com/job-publisher/reactor/reactor/driver"

// Errors of New and Run that a program may want to ask for, by errors.As.
type (
	// ConfigError says which field of a Config cannot be as it is: of reactor.Config, or of
	// that of pgsource or mqttsink.
	ConfigError = driver.ConfigError
	// ConnectRefusedError is a broker's refusal that trying again will not change.
	ConnectRefusedError = driver.ConnectRefusedError
)
