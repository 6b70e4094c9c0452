// An open-loop load generator for HTTP/1.1: requests are due at Poisson times that the server cannot influence.
//
// A request's latency counts from the moment it was due, not from when a connection was free to carry it, so a server
// that stalls is charged for everybody who would have come meanwhile (no "coordinated omission"). One request at a
// time on each keep-alive connection; responses are parsed to their last byte (Content-Length, chunked, 1xx, 204);
// every body carries an id of its own. One thread, epoll; prints one JSON object.
//
//   cc -O2 -o openloop openloop.c -lm
//   openloop --port P --rate R --seconds S --request FILE [--host 127.0.0.1] [--warm-up S] [--connections N]
//            [--timeout S] [--grace S] [--cpu N] [--seed N] [--run XXXX] [--wait-for-stdin]
//
// FILE holds one whole request; sixteen '@' in its body become the four characters of --run and twelve digits.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { INPUT_BYTES_MAX = 16 * 1024, REQUEST_BYTES_MAX = 16 * 1024 * 1024, ID_BYTES = 16, EVENTS_MAX = 512 };
enum { SCAN_MS = 50, RECONNECT_MS = 100, TIMER = 0xffffffff };

typedef enum { CLOSED, CONNECTING, IDLE, BUSY } State;
typedef enum { HEAD, LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE } Part;
typedef enum { MORE, COMPLETE, BAD } Progress;

typedef struct {
  int fd;
  State state;
  bool queued;              // stands in the ring of idle connections
  double due, sent, retry;  // seconds on the monotonic clock
  size_t written;           // bytes of the request that the kernel has taken
  Part part;                // where in the response we are
  int status;
  bool close;               // the server said Connection: close
  unsigned long left;       // bytes left of the body or of this chunk
  size_t used;              // bytes in `input`: the head, a chunk's size line or a trailer line
  char input[INPUT_BYTES_MAX + 1];
  char id[ID_BYTES];
} Connection;

typedef struct { double *at; size_t used, room; } Samples;

static struct {
  const char *host, *request, *run;
  int port, connections, cpu;
  long seed;
  double rate, seconds, warm_up, timeout, grace;
  bool wait_for_stdin;
} opt = {.host = "127.0.0.1", .run = "run0", .connections = 256, .cpu = -1, .seed = 42,
         .seconds = 10, .warm_up = 1, .timeout = 10, .grace = 3};

static struct sockaddr_in server;
static char *request;
static size_t request_bytes, id_at;
static Connection *all;
static int *ring, ring_head, ring_used, poller;
static long sequence, in_flight, reset, timed_out, unsent, bad, status_count[1000], acked, measured_acked;
static Samples latency, lateness;
static double measured_from, last_answer;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what) {
  fprintf(stderr, "openloop: %s: %s\n", what, strerror(errno));
  exit(2);
}

static void sample(Samples *s, double value) {
  if (s->used == s->room) {
    s->room = s->room ? s->room * 2 : 1 << 16;
    if (!(s->at = realloc(s->at, s->room * sizeof *s->at))) die("memory");
  }
  s->at[s->used++] = value;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *s) {
  static const struct { const char *name; double q; } marks[] = {
      {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1}};
  qsort(s->at, s->used, sizeof *s->at, ascending);
  printf("\"%s\":{", name);
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
    size_t rank = s->used ? (size_t)ceil(marks[i].q * (double)s->used) : 0;
    printf("%s\"%s\":%.3f", i ? "," : "", marks[i].name, rank ? s->at[rank - 1] * 1e3 : 0.0);
  }
  printf("}");
}

// ---- connections -------------------------------------------------------------------------------------------------

static void watch(int i, uint32_t events, int how) {
  struct epoll_event e = {.events = events, .data.u32 = (uint32_t)i};
  if (epoll_ctl(poller, how, all[i].fd, &e)) die("epoll_ctl");
}

static void make_idle(int i) {
  Connection *c = &all[i];
  c->state = IDLE;
  if (c->queued) return;
  c->queued = true;
  ring[(ring_head + ring_used++) % opt.connections] = i;
}

static void shut(int i, double t) {
  close(all[i].fd);  // takes it out of epoll, too
  all[i].fd = -1;
  all[i].state = CLOSED;
  all[i].retry = t;
}

static void open_connection(int i) {
  Connection *c = &all[i];
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) die("socket");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) {
    shut(i, now() + RECONNECT_MS * 1e-3);
    return;
  }
  c->state = CONNECTING;
  watch(i, EPOLLOUT, EPOLL_CTL_ADD);
}

// The request differs only in its id, so it is written from the one buffer in up to three pieces.
static void write_request(int i) {
  Connection *c = &all[i];
  while (c->written < request_bytes) {
    memcpy(request + id_at, c->id, ID_BYTES);
    ssize_t n = write(c->fd, request + c->written, request_bytes - c->written);
    if (n < 0 && errno == EAGAIN) {
      watch(i, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
      return;
    }
    if (n < 0) {  // the reset is counted once, by the read that reports it
      watch(i, EPOLLIN, EPOLL_CTL_MOD);
      return;
    }
    c->written += (size_t)n;
    if (c->written == request_bytes && (size_t)n < request_bytes) watch(i, EPOLLIN, EPOLL_CTL_MOD);
  }
}

static void send_request(int i, double due, double t) {
  Connection *c = &all[i];
  char id[ID_BYTES + 1];
  snprintf(id, sizeof id, "%.4s%012llu", opt.run, (unsigned long long)sequence++ % 1000000000000ULL);
  memcpy(c->id, id, ID_BYTES);
  c->state = BUSY;
  c->part = HEAD;
  c->due = due;
  c->sent = t;
  c->used = c->written = 0;
  c->close = false;
  in_flight++;
  if (due >= measured_from) sample(&lateness, t - due);
  write_request(i);
}

// ---- responses ---------------------------------------------------------------------------------------------------

// The value of a header in the NUL-terminated head, or NULL.
static const char *header(const char *head, const char *name) {
  size_t n = strlen(name);
  for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
    line += 2;
    if (!strncasecmp(line, name, n) && line[n] == ':') return line + n + 1 + strspn(line + n + 1, " \t");
  }
  return NULL;
}

static Progress read_head(Connection *c, const char **data, const char *end) {
  while (*data < end) {
    if (c->used == INPUT_BYTES_MAX) return BAD;
    c->input[c->used++] = *(*data)++;
    if (c->used < 4 || memcmp(c->input + c->used - 4, "\r\n\r\n", 4)) continue;
    c->input[c->used] = 0;
    c->used = 0;
    if (strncmp(c->input, "HTTP/1.1 ", 9) && strncmp(c->input, "HTTP/1.0 ", 9)) return BAD;
    c->status = atoi(c->input + 9);
    if (c->status < 100 || c->status > 999) return BAD;
    if (c->status < 200) continue;  // 100 Continue and its kin: the answer follows
    const char *connection = header(c->input, "connection"), *length = header(c->input, "content-length");
    const char *coding = header(c->input, "transfer-encoding");
    c->close = (connection && !strncasecmp(connection, "close", 5)) || c->input[7] == '0';
    if (c->status == 204 || c->status == 304) return COMPLETE;
    if (coding) {
      if (strncasecmp(coding, "chunked", 7)) return BAD;
      c->part = CHUNK_SIZE;
    } else if (length) {
      c->left = strtoul(length, NULL, 10);
      if (!c->left) return COMPLETE;
      c->part = LENGTH;
    } else {
      c->part = UNTIL_CLOSE;
    }
    return MORE;
  }
  return MORE;
}

// One line into `input`, without its CRLF. COMPLETE when it is whole.
static Progress read_line(Connection *c, const char **data, const char *end) {
  while (*data < end) {
    if (c->used == INPUT_BYTES_MAX) return BAD;
    char byte = *(*data)++;
    if (byte != '\n') {
      c->input[c->used++] = byte;
      continue;
    }
    if (!c->used || c->input[c->used - 1] != '\r') return BAD;
    c->input[c->used - 1] = 0;
    c->used = 0;
    return COMPLETE;
  }
  return MORE;
}

static void skip(Connection *c, const char **data, const char *end) {
  unsigned long n = (unsigned long)(end - *data) < c->left ? (unsigned long)(end - *data) : c->left;
  *data += n;
  c->left -= n;
}

static Progress read_response(Connection *c, const char *data, const char *end) {
  Progress step = MORE;
  while (data < end) {
    switch (c->part) {
      case HEAD:
        if ((step = read_head(c, &data, end)) == BAD) return BAD;
        break;
      case LENGTH:
        skip(c, &data, end);
        step = c->left ? MORE : COMPLETE;
        break;
      case CHUNK_SIZE:
        if ((step = read_line(c, &data, end)) == BAD) return BAD;
        if (step == MORE) return MORE;
        char *rest;
        c->left = strtoul(c->input, &rest, 16);
        if (rest == c->input) return BAD;
        c->part = c->left ? CHUNK_DATA : TRAILER;
        step = MORE;
        break;
      case CHUNK_DATA:
        skip(c, &data, end);
        if (!c->left) c->part = CHUNK_END;
        break;
      case CHUNK_END:
        if ((step = read_line(c, &data, end)) == BAD) return BAD;
        if (step == COMPLETE && c->input[0]) return BAD;
        if (step == COMPLETE) c->part = CHUNK_SIZE;
        step = MORE;
        break;
      case TRAILER:
        if ((step = read_line(c, &data, end)) == BAD) return BAD;
        if (step == COMPLETE && c->input[0]) step = MORE;
        break;
      case UNTIL_CLOSE:
        return MORE;
    }
    if (step == COMPLETE) return data == end ? COMPLETE : BAD;  // nobody asked for more than one answer
  }
  return MORE;
}

static void answered(int i, double t) {
  Connection *c = &all[i];
  bool ok = c->status >= 200 && c->status < 300;
  in_flight--;
  status_count[c->status]++;
  acked += ok;
  if (ok && c->due >= measured_from) {
    measured_acked++;
    sample(&latency, t - c->due);
    last_answer = t;
  }
  if (!c->close) {
    make_idle(i);
    return;
  }
  shut(i, t);
  open_connection(i);
}

static void lost(int i, double t, long *counter) {
  if (all[i].state == BUSY) {
    in_flight--;
    (*counter)++;
  }
  shut(i, t);
}

static void readable(int i) {
  static char buffer[64 * 1024];
  Connection *c = &all[i];
  ssize_t n = read(c->fd, buffer, sizeof buffer);
  if (n < 0 && errno == EAGAIN) return;
  double t = now();
  if (n <= 0) {
    if (n == 0 && c->state == BUSY && c->part == UNTIL_CLOSE) {
      c->close = true;
      answered(i, t);
    } else {
      lost(i, t, &reset);
    }
    return;
  }
  if (c->state != BUSY) {  // an answer that nobody asked for (a 408 before the close)
    shut(i, t);
    return;
  }
  Progress p = read_response(c, buffer, buffer + n);
  if (p == BAD) lost(i, t, &bad);
  else if (p == COMPLETE) answered(i, t);
}

static void connected(int i) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(all[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error) {
    shut(i, now() + RECONNECT_MS * 1e-3);
    return;
  }
  watch(i, EPOLLIN, EPOLL_CTL_MOD);
  make_idle(i);
}

// ---- the run -----------------------------------------------------------------------------------------------------

static double gap(void) { return -log(1 - drand48()) / opt.rate; }

static void scan(double t, bool reconnect) {
  for (int i = 0; i < opt.connections; i++) {
    if (all[i].state == BUSY && t - all[i].sent > opt.timeout) lost(i, t, &timed_out);
    if (all[i].state == CLOSED && all[i].retry <= t && reconnect) open_connection(i);
  }
}

static void handle(struct epoll_event *event) {
  int i = (int)event->data.u32;
  if (all[i].state == CLOSED) return;
  if (all[i].state == CONNECTING) {
    connected(i);
    return;
  }
  if (event->events & EPOLLOUT && all[i].state == BUSY) write_request(i);
  if (event->events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(i);
}

static void set_timer(int timer, double wait) {
  long ns = wait > 1e-6 ? (long)(wait * 1e9) : 1000;
  struct itimerspec at = {.it_value = {ns / 1000000000, ns % 1000000000}};
  timerfd_settime(timer, 0, &at, NULL);
}

static void run(void) {
  struct epoll_event events[EVENTS_MAX];
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN, .data.u32 = TIMER};
  epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e);
  double start = now() + 0.2;  // the connections stand by then
  double end = start + opt.warm_up + opt.seconds, due = start + gap(), scanned = 0;
  measured_from = start + opt.warm_up;
  last_answer = end;
  for (;;) {
    double t = now();
    while (due <= t && due < end && ring_used) {
      int i = ring[ring_head];
      ring_head = (ring_head + 1) % opt.connections;
      ring_used--;
      all[i].queued = false;
      if (all[i].state != IDLE) continue;  // it died while it waited
      send_request(i, due, t);
      due += gap();
    }
    if (t - scanned > SCAN_MS * 1e-3) {
      scanned = t;
      scan(t, due < end);
    }
    if (due >= end && !in_flight) break;
    if (t > end + opt.grace && due < end) {  // hopelessly behind: what was due and never sent is counted
      for (; due < end; due += gap()) unsent++;
    }
    if (t > end + opt.grace + opt.timeout) break;
    double wait = due < end && due > t ? due - t : SCAN_MS * 1e-3;
    set_timer(timer, wait < SCAN_MS * 1e-3 ? wait : SCAN_MS * 1e-3);
    int n = epoll_wait(poller, events, EVENTS_MAX, SCAN_MS);
    for (int k = 0; k < n; k++) {
      unsigned long expirations;
      if (events[k].data.u32 != TIMER) handle(&events[k]);
      else if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timerfd");
    }
  }
  timed_out += in_flight;
  double span = last_answer - measured_from;
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
  printf("{\"sent\":%ld,\"acked\":%ld,\"measured\":%ld,\"rate_per_second\":%.1f,\"reset\":%ld,\"timed_out\":%ld,"
         "\"unsent\":%ld,\"bad\":%ld,\"generator_cpu\":%.3f,\"status\":{",
         sequence, acked, measured_acked, (double)measured_acked / (span > opt.seconds ? span : opt.seconds), reset,
         timed_out, unsent, bad, cpu / (now() - start + 0.2));
  const char *comma = "";
  for (int s = 0; s < 1000; s++)
    if (status_count[s]) {
      printf("%s\"%d\":%ld", comma, s, status_count[s]);
      comma = ",";
    }
  printf("},");
  print_samples("latency_ms", &latency);
  printf(",");
  print_samples("lateness_ms", &lateness);
  printf("}\n");
}

static void read_options(int argc, char **argv) {
  static const struct option names[] = {
      {"host", 1, 0, 'h'}, {"port", 1, 0, 'p'}, {"rate", 1, 0, 'r'}, {"seconds", 1, 0, 's'},
      {"warm-up", 1, 0, 'w'}, {"connections", 1, 0, 'c'}, {"request", 1, 0, 'f'}, {"timeout", 1, 0, 't'},
      {"grace", 1, 0, 'g'}, {"cpu", 1, 0, 'u'}, {"seed", 1, 0, 'e'}, {"run", 1, 0, 'i'},
      {"wait-for-stdin", 0, 0, 'W'}, {0}};
  for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (o) {
      case 'h': opt.host = optarg; break;
      case 'p': opt.port = atoi(optarg); break;
      case 'r': opt.rate = atof(optarg); break;
      case 's': opt.seconds = atof(optarg); break;
      case 'w': opt.warm_up = atof(optarg); break;
      case 'c': opt.connections = atoi(optarg); break;
      case 'f': opt.request = optarg; break;
      case 't': opt.timeout = atof(optarg); break;
      case 'g': opt.grace = atof(optarg); break;
      case 'u': opt.cpu = atoi(optarg); break;
      case 'e': opt.seed = atol(optarg); break;
      case 'i': opt.run = optarg; break;
      case 'W': opt.wait_for_stdin = true; break;
      default: exit(2);
    }
  if (!opt.port || !opt.request || opt.rate <= 0 || opt.connections < 1 || strlen(opt.run) != 4) {
    fprintf(stderr, "openloop: needs --port, --rate, --request, a --run of four characters\n");
    exit(2);
  }
}

static void read_request(void) {
  FILE *file = fopen(opt.request, "rb");
  if (!file) die(opt.request);
  if (!(request = malloc(REQUEST_BYTES_MAX))) die("memory");
  request_bytes = fread(request, 1, REQUEST_BYTES_MAX, file);
  fclose(file);
  char *mark = memmem(request, request_bytes, "@@@@@@@@@@@@@@@@", ID_BYTES);
  if (!mark) {
    fprintf(stderr, "openloop: the request has no place for an id (sixteen @)\n");
    exit(2);
  }
  id_at = (size_t)(mark - request);
}

// Real-time priority keeps a busy machine from being mistaken for a slow server; it needs a privilege.
static void take_place(void) {
  struct sched_param priority = {.sched_priority = 1};
  if (opt.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)opt.cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) fprintf(stderr, "openloop: cannot take core %d\n", opt.cpu);
  }
  if (sched_setscheduler(0, SCHED_RR, &priority)) fprintf(stderr, "openloop: no real-time priority\n");
}

int main(int argc, char **argv) {
  read_options(argc, argv);
  read_request();
  take_place();
  signal(SIGPIPE, SIG_IGN);
  srand48(opt.seed);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  server.sin_family = AF_INET;
  server.sin_port = htons((uint16_t)opt.port);
  if (inet_pton(AF_INET, opt.host, &server.sin_addr) != 1) {
    fprintf(stderr, "openloop: --host takes an IPv4 address\n");
    return 2;
  }
  poller = epoll_create1(0);
  all = calloc((size_t)opt.connections, sizeof *all);
  ring = calloc((size_t)opt.connections, sizeof *ring);
  if (!all || !ring) die("memory");
  for (int i = 0; i < opt.connections; i++) open_connection(i);
  run();
  if (opt.wait_for_stdin) {  // the connections stay open while somebody measures the server
    fflush(stdout);
    while (getchar() != EOF) continue;
  }
  return 0;
}
