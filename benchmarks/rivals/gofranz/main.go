// The rival of http_to_kafka: Go's net/http with franz-go, answering after the acknowledgement of all in-sync replicas.
//
// It does what its users would write: Basic credentials in constant time, a body limit, the topic from the path, two
// record headers. It does less than the bridge (no ids, no request headers in the record, no deadlines, no metrics).
// Arguments: the address to listen on. Environment: RIVAL_BOOTSTRAP, RIVAL_KAFKA_USERNAME, RIVAL_KAFKA_PASSWORD,
// RIVAL_USERNAME, RIVAL_PASSWORD, RIVAL_LINGER (a Go duration).
package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

const bodyBytesMax = 1 << 20

type bridge struct {
	kafka              *kgo.Client
	username, password [sha256.Size]byte
}

func (b *bridge) authorized(r *http.Request) bool {
	username, password, given := r.BasicAuth()
	u, p := sha256.Sum256([]byte(username)), sha256.Sum256([]byte(password))
	same := subtle.ConstantTimeCompare(u[:], b.username[:]) & subtle.ConstantTimeCompare(p[:], b.password[:])
	return given && same == 1
}

func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	if !b.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="rival"`)
		http.Error(w, "credentials are missing or wrong", http.StatusUnauthorized)
		return
	}
	topic, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if err != nil {
		http.Error(w, "the body is too large or was cut off", http.StatusRequestEntityTooLarge)
		return
	}
	// Produce and wait, not ProduceSync: that one flushes, which ends the linger at once.
	acknowledged := make(chan error, 1)
	b.kafka.Produce(r.Context(), &kgo.Record{
		Topic: topic,
		Value: body,
		Headers: []kgo.RecordHeader{
			{Key: "path", Value: []byte(r.URL.Path)},
			{Key: "content-type", Value: []byte(r.Header.Get("Content-Type"))},
		},
	}, func(_ *kgo.Record, err error) { acknowledged <- err })
	if err := <-acknowledged; err != nil {
		http.Error(w, "Kafka did not acknowledge", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"stored":"kafka"}`)
}

func run(address string) error {
	linger, err := time.ParseDuration(os.Getenv("RIVAL_LINGER"))
	if err != nil {
		return fmt.Errorf("RIVAL_LINGER: %w", err)
	}
	kafka, err := kgo.NewClient(
		kgo.SeedBrokers(os.Getenv("RIVAL_BOOTSTRAP")),
		kgo.SASL(plain.Auth{
			User: os.Getenv("RIVAL_KAFKA_USERNAME"), Pass: os.Getenv("RIVAL_KAFKA_PASSWORD"),
		}.AsMechanism()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(linger),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MaxBufferedRecords(100_000),
	)
	if err != nil {
		return err
	}
	defer kafka.Close()
	server := &http.Server{
		Handler: &bridge{
			kafka:    kafka,
			username: sha256.Sum256([]byte(os.Getenv("RIVAL_USERNAME"))),
			password: sha256.Sum256([]byte(os.Getenv("RIVAL_PASSWORD"))),
		},
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second,
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr()) // the harness reads the port here

	stop, done := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer done()
	drained := make(chan error, 1)
	go func() {
		<-stop.Done()
		limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		drained <- server.Shutdown(limit)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-drained
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: gofranz ADDRESS")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}
