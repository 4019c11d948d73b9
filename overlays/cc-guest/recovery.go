package main

import (
	"context"
	"fmt"
	"os"
)

// recoveryAnswer is what the host gets: of no use without a recipient's key.
type recoveryAnswer struct {
	Message string `json:"message"` // armoured OpenPGP
}

// recoveryKey returns the encrypted recovery key of the writable volume.
func recoveryKey() (recoveryAnswer, error) {
	k, _, err := keys()
	if err != nil {
		return recoveryAnswer{}, err
	}
	message, err := k.Recovery()
	return recoveryAnswer{Message: message}, err
}

func printRecovery(context.Context) error {
	answer, err := recoveryKey()
	if err != nil {
		return err
	}
	_, err = os.Stdout.WriteString(answer.Message)
	return err
}

// askRenewal has the next boot give the writable volume another key.
func askRenewal(ctx context.Context) error {
	k, _, err := keys()
	if err != nil {
		return err
	}
	return k.Renew(ctx)
}

func renewVolume(ctx context.Context) error {
	if err := askRenewal(ctx); err != nil {
		return err
	}
	_, err := fmt.Println("the next boot gives the writable volume another key; start the VM again when it suits")
	return err
}
