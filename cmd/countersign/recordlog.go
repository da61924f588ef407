package main

import (
	"bufio"
	"bytes"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// flushEvery is how long a record of an admitted pull may wait in memory.
	// Everything else is written at once.
	flushEvery = time.Second
	// recordBuffer holds some hundreds of records between flushes.
	recordBuffer = 256 << 10
)

// recordLog writes JSON lines: the program's own messages to stderr, decision
// records to stderr and to the decision log. The log is cut by the day (UTC);
// files older than keep are removed.
type recordLog struct {
	log      *zap.Logger
	requests *zap.Logger
	outputs  []*buffered
	file     *dailyFile
	done     chan struct{}
	flusher  sync.WaitGroup
}

// openRecordLog writes messages and records to out, which is stderr but for
// commands with an output of their own, and records to the file at path too.
func openRecordLog(out io.Writer, path string, keep time.Duration) (*recordLog, error) {
	stderr := newBuffered(out)
	l := &recordLog{outputs: []*buffered{stderr}, done: make(chan struct{})}
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{TimeKey: "time", LevelKey: "level", MessageKey: "message",
		EncodeTime: zapcore.RFC3339NanoTimeEncoder, EncodeLevel: zapcore.LowercaseLevelEncoder, EncodeDuration: zapcore.SecondsDurationEncoder})
	l.log = zap.New(zapcore.NewCore(encoder, stderr, zapcore.InfoLevel))
	records := zapcore.WriteSyncer(stderr)
	if path != "" {
		file, err := openDailyFile(path, keep)
		if err != nil {
			return nil, err
		}
		l.file = file
		l.outputs = append(l.outputs, newBuffered(file))
		records = zapcore.NewMultiWriteSyncer(stderr, l.outputs[1])
	}
	l.requests = zap.New(zapcore.NewCore(encoder, records, zapcore.InfoLevel))
	l.flusher.Go(l.flushLoop)
	return l, nil
}

func (l *recordLog) flushLoop() {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.flush()
		case <-l.done:
			l.flush()
			return
		}
	}
}

func (l *recordLog) flush() {
	for _, b := range l.outputs {
		if err := b.Sync(); err != nil {
			l.log.Error("writing records: is the disk full?", zap.Error(err))
		}
	}
}

func (l *recordLog) close() {
	close(l.done)
	l.flusher.Wait()
	if l.file != nil {
		l.file.close()
	}
}

// buffered collects what may wait. Records that say anything but "admitted"
// are written at once, so that a crash loses none of them.
type buffered struct {
	mu  sync.Mutex
	out io.Writer
	w   *bufio.Writer
}

func newBuffered(out io.Writer) *buffered {
	return &buffered{out: out, w: bufio.NewWriterSize(out, recordBuffer)}
}

// Write implements zapcore.WriteSyncer.
func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w.Available() < len(p) {
		// Lines are handed on whole, so that none is cut in two by a new day.
		if err := b.recover(b.w.Flush()); err != nil {
			return 0, err
		}
	}
	n, err := b.w.Write(p)
	if err == nil && !bytes.Contains(p, mayWait) {
		err = b.w.Flush()
	}
	return n, b.recover(err)
}

// Sync writes what is buffered.
func (b *buffered) Sync() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recover(b.w.Flush())
}

// recover lets writing go on after an error, which bufio would keep for ever:
// a full disk must not silence the log when there is room again.
func (b *buffered) recover(err error) error {
	if err != nil {
		b.w.Reset(b.out)
	}
	return err
}

var mayWait = []byte(`"outcome":"admitted"`)
