//! Clients and a stand-in for Piston in one thread, on raw sockets.
//!
//! Both ends of a proxy are one event loop here, so that the proxy is the only other thing that
//! runs, and what the ends cost is the same for each proxy.

// Each benchmark is a program of its own that needs a part of this.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod process;
pub mod stats;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

const LISTENER: u64 = u64::MAX;
/// A request that takes longer than this has gone lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one drive has measured.
#[derive(Debug, Default)]
pub struct Drive {
    /// How long each request took, from its first byte out to its response's last byte in.
    pub times: Vec<Duration>,
    /// From the first request to the last response.
    pub elapsed: Duration,
    /// Answers with another status than 200.
    pub refused: usize,
}

impl Drive {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// The event loop, and the stand-in's listener.
pub struct Wire {
    /// Where the stand-in for Piston listens.
    pub piston: SocketAddr,
    listener: TcpListener,
    epoll: OwnedFd,
    ends: Vec<Option<End>>,
    scratch: Vec<u8>,
    runtimes: Arc<[u8]>,
    executed: Arc<[u8]>,
}

enum Role {
    Client { began: Instant, left: usize },
    Piston,
}

/// One end of a connection, with one message under way at a time.
struct End {
    stream: TcpStream,
    role: Role,
    head: Vec<u8>,
    received: usize,
    expected: Option<usize>,
    output: Arc<[u8]>,
    sent: usize,
    waits_to_send: bool,
}

impl Wire {
    /// A stand-in that answers each execution with `stdout`.
    pub fn new(stdout: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN).unwrap();
        let runtimes = r#"[{"language":"python","version":"3.12.0","aliases":["py","python3"]}]"#;
        let mut wire = Self {
            piston: listener.local_addr().unwrap(),
            listener,
            epoll,
            ends: Vec::new(),
            scratch: vec![0; 256 << 10],
            runtimes: response(runtimes),
            executed: Arc::default(),
        };
        wire.prints(stdout);
        wire
    }

    /// What programs print from now on.
    pub fn prints(&mut self, stdout: &str) {
        let stdout = serde_json::to_string(stdout).unwrap();
        self.executed = response(&format!(
            r#"{{"run":{{"signal":null,"stdout":{stdout},"stderr":"","code":0,"output":{stdout},"memory":9000000,"message":null,"status":null,"cpu_time":9,"wall_time":12}},"language":"python","version":"3.12.0"}}"#
        ));
    }

    /// Answers what comes to the stand-in for as long as `time`.
    pub fn serve(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn(until, &mut |_| {});
        }
    }

    /// Sends `request` over `connections` connections, `requests` times in all; each waits for its
    /// response before the next one.
    pub fn drive(
        &mut self,
        to: SocketAddr,
        request: &Arc<[u8]>,
        connections: usize,
        requests: usize,
    ) -> Drive {
        let mut drive = Drive::default();
        drive.times.reserve(requests);
        let clients: Vec<usize> = (0..connections)
            .map(|number| {
                let stream = TcpStream::connect(to).expect("the proxy");
                let left = requests / connections + usize::from(number < requests % connections);
                let began = Instant::now();
                self.add(stream, Role::Client { began, left })
            })
            .collect();
        let started = Instant::now();
        let mut open = 0;
        for client in &clients {
            if let Some(end) = self.ends[*client].as_mut()
                && end.next_request(request)
            {
                open += 1;
                self.send(*client);
            }
        }
        while open > 0 {
            let late = Instant::now() + PATIENCE;
            let mut ended = Vec::new();
            self.turn(late, &mut |client| ended.push(client));
            assert!(Instant::now() < late, "a request has gone lost");
            for client in ended {
                let end = self.ends[client].as_mut().expect("a client");
                let Role::Client { began, .. } = &end.role else {
                    continue;
                };
                drive.times.push(began.elapsed());
                drive.refused += usize::from(!end.head.starts_with(b"HTTP/1.1 200"));
                if end.next_request(request) {
                    self.send(client);
                } else {
                    open -= 1;
                }
            }
        }
        drive.elapsed = started.elapsed();
        for client in clients {
            self.ends[client] = None;
        }
        drive
    }

    fn add(&mut self, stream: TcpStream, role: Role) -> usize {
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let free = self.ends.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        let data = epoll::EventData::new_u64(at as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN).unwrap();
        self.ends[at] = Some(End {
            stream,
            role,
            head: Vec::new(),
            received: 0,
            expected: None,
            output: Arc::default(),
            sent: 0,
            waits_to_send: false,
        });
        at
    }

    /// Waits for what happens, at most until `until`, and tells which clients have their response.
    fn turn(&mut self, until: Instant, answered: &mut impl FnMut(usize)) {
        let mut events = Vec::with_capacity(256);
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&left)) {
            // A debugger, or the machine's suspension.
            Err(Errno::INTR) => return,
            waited => waited.unwrap(),
        };
        for event in events {
            let (at, flags) = (event.data.u64(), event.flags);
            if at == LISTENER {
                if let Ok((stream, _peer)) = self.listener.accept() {
                    self.add(stream, Role::Piston);
                }
                continue;
            }
            let at = at as usize;
            if flags.contains(epoll::EventFlags::OUT) {
                self.send(at);
            }
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP) {
                self.receive(at, answered);
            }
        }
    }

    fn receive(&mut self, at: usize, answered: &mut impl FnMut(usize)) {
        let Some(end) = self.ends[at].as_mut() else {
            return;
        };
        match end.stream.read(&mut self.scratch) {
            Ok(0) => self.lost(at),
            Ok(count) => {
                if end.take(&self.scratch[..count]) {
                    match end.role {
                        Role::Client { .. } => answered(at),
                        Role::Piston => {
                            let is_list = end.head.starts_with(b"GET");
                            let response = if is_list {
                                &self.runtimes
                            } else {
                                &self.executed
                            };
                            end.begin(Arc::clone(response));
                            self.send(at);
                        }
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.lost(at),
        }
    }

    /// A proxy may close what it keeps open to the stand-in, but no client's connection.
    fn lost(&mut self, at: usize) {
        let lost = self.ends[at].take();
        let is_client = lost.is_some_and(|end| matches!(end.role, Role::Client { .. }));
        assert!(!is_client, "a client's connection was closed");
    }

    fn send(&mut self, at: usize) {
        let Some(end) = self.ends[at].as_mut() else {
            return;
        };
        while end.sent < end.output.len() {
            match end.stream.write(&end.output[end.sent..]) {
                Ok(count) => end.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.lost(at),
            }
        }
        let waits = end.sent < end.output.len();
        if waits != end.waits_to_send {
            end.waits_to_send = waits;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, waits);
            let data = epoll::EventData::new_u64(at as u64);
            epoll::modify(&self.epoll, &end.stream, data, flags).unwrap();
        }
    }
}

impl End {
    /// Begins the next request, if there is one left.
    fn next_request(&mut self, request: &Arc<[u8]>) -> bool {
        let Role::Client { began, left } = &mut self.role else {
            return false;
        };
        if *left == 0 {
            return false;
        }
        (*began, *left) = (Instant::now(), *left - 1);
        self.begin(Arc::clone(request));
        true
    }

    /// Begins to send a message, behind which another one is expected.
    fn begin(&mut self, output: Arc<[u8]>) {
        (self.output, self.sent) = (output, 0);
        (self.received, self.expected) = (0, None);
        self.head.clear();
    }

    /// Takes what was received, and says whether the message is complete.
    fn take(&mut self, bytes: &[u8]) -> bool {
        if self.expected.is_none() {
            if self.received == 0 {
                self.head.clear();
            }
            self.head.extend_from_slice(bytes);
            if let Some(end) = memchr::memmem::find(&self.head, b"\r\n\r\n") {
                self.head.truncate(end + 2);
                self.expected = Some(end + 4 + content_length(&self.head));
            }
        }
        self.received += bytes.len();
        let is_complete = self.expected == Some(self.received);
        if is_complete {
            (self.received, self.expected) = (0, None);
        }
        is_complete
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).expect("a head of ASCII");
    let field = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().expect("a length"))
    });
    let is_get = head.starts_with("GET");
    field.unwrap_or_else(|| {
        assert!(is_get, "no Content-Length: {head}");
        0
    })
}

fn response(body: &str) -> Arc<[u8]> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\nConnection: keep-alive\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
    .into()
}

/// A `POST` of JSON as clients send it.
pub fn post(path: &str, body: &str) -> Arc<[u8]> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
    .into()
}
