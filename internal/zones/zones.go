// Package zones has the rules of the world's time zones for systems that lack them: an image without files, or
// Windows. It has what time/tzdata has, in a fifth of its bytes: in a program of at most 20 MB, 0.4 count.
package zones

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)

//go:generate go run ./pack

// packed is gzip of the zones in order of their names, each as Append writes it. Its source is Go's
// lib/time/zoneinfo.zip, as that of time/tzdata.
//
//go:embed zones.gz
var packed []byte

// unpacked are the zones that were asked for, as *time.Location. There are no more than packed has.
var unpacked sync.Map

// Load returns a zone of the IANA database by its name, such as Europe/Berlin. The system's rules come first, for
// they may be newer, and are read anew each time, as time.LoadLocation does.
func Load(name string) (*time.Location, error) { return load(name, time.LoadLocation) }

func load(name string, system func(name string) (*time.Location, error)) (*time.Location, error) {
	zone, err := system(name)
	if err == nil {
		return zone, nil
	}
	if known, ok := unpacked.Load(name); ok {
		return known.(*time.Location), nil
	}
	data, errOwn := find(name)
	if errOwn != nil {
		return nil, errOwn
	}
	if data == nil {
		return nil, err
	}
	if zone, err = time.LoadLocationFromTZData(name, data); err != nil {
		return nil, err
	}
	unpacked.Store(name, zone)
	return zone, nil
}

// Append appends a zone to what is packed: the lengths of its name and its data, as big-endian numbers of 16 and 32
// bits, the name, and the data.
func Append(b []byte, name string, data []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(append(b, name...), data...)
}

// find returns the data of a zone, in the format of RFC 9636; nil: there is no such zone.
func find(name string) (data []byte, err error) {
	for entry, errOwn := range entries() {
		if errOwn != nil {
			return nil, fmt.Errorf("the program's time zones are damaged: %w", errOwn)
		}
		if entry.name == name {
			return entry.data, nil
		}
	}
	return nil, nil
}

type entry struct {
	name string
	data []byte
}

// entries unpacks one zone after the other.
func entries() iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		unzip, err := gzip.NewReader(bytes.NewReader(packed))
		for err == nil {
			var head [6]byte
			if _, err = io.ReadFull(unzip, head[:]); err != nil {
				break
			}
			name := int(binary.BigEndian.Uint16(head[:]))
			text := make([]byte, name+int(binary.BigEndian.Uint32(head[2:])))
			if _, err = io.ReadFull(unzip, text); err == nil && !yield(entry{string(text[:name]), text[name:]}, nil) {
				return
			}
		}
		if err != io.EOF {
			yield(entry{}, err)
		}
	}
}
