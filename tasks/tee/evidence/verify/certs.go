package verify

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// der returns the content of a PEM block, or what is no PEM as it is.
func der(data []byte) []byte {
	if block, _ := pem.Decode(data); block != nil {
		return block.Bytes
	}
	return data
}

// certificates reads a file of PEM certificates.
func certificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate is in the file")
	}
	return certs, nil
}

// fromTable returns one entry of a host's certificate table (AMD publication
// 56421, section 4.1.8.1): 24 bytes an entry, {GUID, u32 offset, u32 length},
// ended by one of zeros. The library's reader adds offset and length in 32
// bits, and so can be led outside of the table.
func fromTable(table []byte, guid string) ([]byte, error) {
	const entrySize = 24
	want, err := uuid.Parse(guid)
	if err != nil {
		return nil, err
	}
	for at := 0; at+entrySize <= len(table); at += entrySize {
		entry := table[at : at+entrySize]
		if bytes.Equal(entry, make([]byte, entrySize)) {
			break
		}
		if !bytes.Equal(entry[:16], want[:]) {
			continue
		}
		offset := uint64(binary.LittleEndian.Uint32(entry[16:]))
		length := uint64(binary.LittleEndian.Uint32(entry[20:]))
		if offset+length > uint64(len(table)) || length == 0 {
			return nil, fmt.Errorf("the certificate table's entry lies at %d+%d, the table has %d bytes", offset, length, len(table))
		}
		return table[offset : offset+length], nil
	}
	return nil, errors.New("the evidence holds no VCEK certificate, and none is given for its chip and TCB")
}
