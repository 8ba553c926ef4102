package mqttsink

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/job-publisher/reactor/reactor/driver"
)

// login is the user and the password at a broker. No broker accepts an empty one, so "" means none.
type login struct {
	username, password string
	// The files replace them; nil: there is none. They are read at each connect, so that a new
	// password is in use as soon as a broker wants it.
	usernameFile, passwordFile *liveFile[string]
}

// override puts the fields of the configuration in the place of what the URL says.
func (l *login) override(cfg *Config) (err error) {
	if cfg.Username != "" {
		l.username = cfg.Username
	}
	if cfg.Password != "" {
		l.password = cfg.Password
	}
	if err := checkUsername(l.username); err != nil {
		return &driver.ConfigError{Field: "Username", Problem: err.Error()}
	}
	if err := checkPassword(l.password); err != nil {
		return &driver.ConfigError{Field: "Password", Problem: err.Error()}
	}
	if l.usernameFile, err = textFile("UsernameFile", cfg.UsernameFile, "Username", cfg.Username, checkUsername); err != nil {
		return err
	}
	l.passwordFile, err = textFile("PasswordFile", cfg.PasswordFile, "Password", cfg.Password, checkPassword)
	return err
}

// textFile opens a file that holds one text. other is the field that gives the same text directly.
func textFile(field, path, other, given string, check func(string) error) (*liveFile[string], error) {
	switch {
	case path == "":
		return nil, nil
	case given != "":
		return nil, &driver.ConfigError{Field: field, Problem: "and " + other + " are both given: give one of the two"}
	}
	return openLive(field, func(contents [][]byte) (string, error) {
		text := string(bytes.TrimRight(contents[0], "\r\n")) // as editors and echo end it
		if text == "" {
			return "", errors.New("it is empty")
		}
		return text, check(text)
	}, path)
}

// now returns what to send in CONNECT.
func (l *login) now(log *slog.Logger) (username, password string) {
	username, password = l.username, l.password
	if l.usernameFile != nil {
		username = l.usernameFile.latest(log)
	}
	if l.passwordFile != nil {
		password = l.passwordFile.latest(log)
	}
	return username, password
}

func checkUsername(name string) error {
	switch {
	case len(name) > maxUint16:
		return fmt.Errorf("has %d bytes, MQTT's limit is %d", len(name), maxUint16)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		// A broker closes the connection because of it, which would look like another cause.
		return errors.New("has a control character in it, or is not UTF-8: MQTT allows neither")
	}
	return nil
}

func checkPassword(password string) error {
	if len(password) > maxUint16 {
		return fmt.Errorf("has %d bytes, MQTT's limit is %d", len(password), maxUint16)
	}
	return nil
}
