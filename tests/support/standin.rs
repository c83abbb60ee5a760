//! A stand-in for Piston that answers from a script and remembers what it was asked.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use session_adapter::replay::{PistonExchange, PistonRequest, PistonResponse, request_difference};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::eventually::PATIENCE;
use super::http1::{Buffer, Message};

const EXECUTE: &str = "/api/v2/execute";
const RUNTIMES: &str = "/api/v2/runtimes";
const JSON: &str = "application/json; charset=utf-8";

/// The response of Piston 3.1.1 with the packages that the recordings were made with.
const RECORDED_RUNTIMES: &str = r#"[{"language":"bash","version":"5.2.15","aliases":["sh"]},{"language":"c","version":"12.2.0","aliases":["gcc"],"runtime":"gcc"},{"language":"c++","version":"12.2.0","aliases":["cpp","g++"],"runtime":"gcc"},{"language":"java","version":"17.0.0","aliases":[]},{"language":"javascript","version":"20.20.2","aliases":["node-javascript","node-js","javascript","js"],"runtime":"node"},{"language":"python","version":"3.11.2","aliases":["py","py3","python3","python3.11"]}]"#;

/// A gate that holds answers back until the test opens it.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets through what waits and what comes.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        let mut opened = self.0.subscribe();
        // The sender is `self`, so that the only error cannot be.
        let _ = opened.wait_for(|open| *open).await;
    }
}

/// What the stand-in does with a request once it has read it.
#[derive(Debug, Clone)]
pub enum ScriptedResponse {
    /// A proper response.
    Whole {
        /// The status.
        status: u16,
        /// The content type, where there is one.
        content_type: Option<String>,
        /// The body.
        body: Vec<u8>,
    },
    /// Bytes as they are, and the end of the connection.
    Bytes(Vec<u8>),
    /// Bytes as they are, on a connection that stays open.
    Open(Vec<u8>),
    /// The head, and then a body of so many bytes, for as long as the client takes it.
    Flood(Vec<u8>, u64),
    /// The end of the connection.
    Close,
    /// A reset connection.
    Reset,
    /// Nothing, for as long as the client stays.
    Never,
    /// A response after the gate has opened.
    Held(Gate, Box<ScriptedResponse>),
    /// A response after a time.
    After(Duration, Box<ScriptedResponse>),
}

impl ScriptedResponse {
    /// JSON with a status.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::Whole {
            status,
            content_type: Some(JSON.to_owned()),
            body: body.to_string().into_bytes(),
        }
    }

    /// The run of a program that printed this and ended well.
    pub fn stdout(stdout: &str) -> Self {
        Self::run(json!({"stdout": stdout, "output": stdout}))
    }

    /// A run: these fields, and those of a program that printed nothing and ended well.
    pub fn run(fields: Value) -> Self {
        let mut run = json!({
            "signal": null, "stdout": "", "stderr": "", "code": 0, "output": "", "memory": 9_624_000,
            "message": null, "status": null, "cpu_time": 20, "wall_time": 25,
        });
        for (name, value) in fields.as_object().expect("an object") {
            run[name] = value.clone();
        }
        let body = json!({"run": run, "language": "python", "version": "3.11.2"});
        Self::json(200, &body)
    }

    /// Piston's refusal of a request.
    pub fn refusal(message: &str) -> Self {
        Self::json(400, &json!({"message": message}))
    }

    /// A status without a body, as Piston's 500 is.
    pub fn empty(status: u16) -> Self {
        Self::Whole {
            status,
            content_type: None,
            body: Vec::new(),
        }
    }

    /// A 200 that says it is JSON and is not.
    pub fn not_json() -> Self {
        Self::Whole {
            status: 200,
            content_type: Some(JSON.to_owned()),
            body: b"<html>It works!</html>".to_vec(),
        }
    }

    /// The run of a program that printed so many bytes.
    pub fn huge(bytes: usize) -> Self {
        Self::stdout(&"x".repeat(bytes))
    }

    /// The first half of a proper response's bytes, and the end of the connection.
    pub fn half(self) -> Self {
        let mut bytes = self.bytes();
        bytes.truncate(bytes.len() / 2);
        Self::Bytes(bytes)
    }

    /// The head of a proper response, and the end of the connection.
    pub fn head(self) -> Self {
        let mut bytes = self.bytes();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        bytes.truncate(end.expect("a head") + 4);
        Self::Bytes(bytes)
    }

    /// The first half of bytes.
    pub fn half_of_bytes(self) -> Self {
        let Self::Bytes(mut bytes) = self else {
            panic!("only bytes have a half");
        };
        bytes.truncate(bytes.len() / 2);
        Self::Bytes(bytes)
    }

    /// A response of so many bytes, whose head says how many, or that it comes in chunks.
    pub fn flood(bytes: u64, is_announced: bool) -> Self {
        let framing = match is_announced {
            true => format!("Content-Length: {bytes}"),
            // One chunk is as good as many: only the end says how much there was.
            false => format!("Transfer-Encoding: chunked\r\n\r\n{bytes:x}"),
        };
        let end = if is_announced { "\r\n\r\n" } else { "\r\n" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\n{framing}{end}");
        Self::Flood(head.into_bytes(), bytes)
    }

    /// The same bytes on a connection that stays open behind them.
    pub fn staying_open(self) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Open(bytes),
            other => Self::Open(other.bytes()),
        }
    }

    /// A proper response whose `content-length` says so many bytes, whatever they are.
    pub fn claiming(self, length: usize) -> Self {
        let Self::Whole { body, .. } = &self else {
            panic!("only a whole response has a length");
        };
        let (right, wrong) = (body.len(), length);
        let text = String::from_utf8(self.bytes()).expect("text");
        let text = text.replacen(
            &format!("Content-Length: {right}\r\n"),
            &format!("Content-Length: {wrong}\r\n"),
            1,
        );
        Self::Bytes(text.into_bytes())
    }

    /// The response once the gate has opened.
    pub fn held_by(self, gate: &Gate) -> Self {
        Self::Held(gate.clone(), Box::new(self))
    }

    /// The response after a time.
    pub fn after(self, time: Duration) -> Self {
        Self::After(time, Box::new(self))
    }

    /// Waits for what holds the response back, and gives the response behind it.
    async fn wait(self) -> Self {
        match self {
            Self::Held(gate, then) => {
                gate.pass().await;
                *then
            }
            Self::After(time, then) => {
                sleep(time).await;
                *then
            }
            Self::Never => std::future::pending().await,
            then => then,
        }
    }

    /// The bytes of a proper response, with the headers that Piston sends.
    fn bytes(&self) -> Vec<u8> {
        let Self::Whole {
            status,
            content_type,
            body,
        } = self
        else {
            panic!("only a whole response has bytes");
        };
        let reason = StatusCode::from_u16(*status).unwrap();
        let reason = reason.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {status} {reason}\r\nX-Powered-By: Express\r\n");
        if let Some(content_type) = content_type {
            head += &format!("Content-Type: {content_type}\r\n");
        }
        head += &format!(
            "Content-Length: {}\r\nDate: Sat, 21 Nov 2026 01:48:13 GMT\r\n\
             Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n",
            body.len()
        );
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}

impl From<&PistonResponse> for ScriptedResponse {
    fn from(recorded: &PistonResponse) -> Self {
        Self::Whole {
            status: recorded.status,
            content_type: recorded.headers.get("content-type").cloned(),
            body: recorded.body.clone().into_bytes(),
        }
    }
}

/// One request that the stand-in was sent.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl ReceivedRequest {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The readiness execution is no request of a client's: its only file is `ready.<ext>`.
    fn is_readiness(&self) -> bool {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let files = body["files"].as_array();
        files.is_some_and(|files| {
            files.len() == 1
                && files[0]["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("ready."))
        })
    }
}

#[derive(Debug)]
struct State {
    steps: VecDeque<(Option<PistonRequest>, ScriptedResponse)>,
    always: Option<ScriptedResponse>,
    runtimes: ScriptedResponse,
    readiness: ScriptedResponse,
    about: Option<ScriptedResponse>,
    asked: Vec<ReceivedRequest>,
    complaints: Vec<String>,
    connections: usize,
    left: usize,
}

/// How a stand-in will response.
#[derive(Debug)]
pub struct Script {
    state: State,
    close_idle_after: Option<Duration>,
}

impl Script {
    /// What it does with the next request.
    pub fn respond(mut self, response: ScriptedResponse) -> Self {
        self.state.steps.push_back((None, response));
        self
    }

    /// The next request must be the recorded one, and is answered as it was recorded.
    pub fn recorded(mut self, exchange: &PistonExchange) -> Self {
        let response = ScriptedResponse::from(&exchange.response);
        // The adapter asks for the runtimes when it likes, so that they have no place in the order.
        if exchange.request.path == RUNTIMES && exchange.request.method == "GET" {
            self.state.runtimes = response;
            return self;
        }
        let step = (Some(exchange.request.clone()), response);
        self.state.steps.push_back(step);
        self
    }

    /// What it does with every request after the script's end; else such a request is a complaint.
    pub fn always(mut self, response: ScriptedResponse) -> Self {
        self.state.always = Some(response);
        self
    }

    /// What it does with `GET /api/v2/runtimes`, instead of the recorded list.
    pub fn runtimes(mut self, response: ScriptedResponse) -> Self {
        self.state.runtimes = response;
        self
    }

    /// What it does with a readiness execution, instead of the right response.
    pub fn readiness(mut self, response: ScriptedResponse) -> Self {
        self.state.readiness = response;
        self
    }

    /// What it does with `GET /`, instead of taking it for a request of the script.
    pub fn about(mut self, response: ScriptedResponse) -> Self {
        self.state.about = Some(response);
        self
    }

    /// How long it keeps a connection on which nothing is asked. Piston: 5 s.
    pub fn close_idle_after(mut self, time: Duration) -> Self {
        self.close_idle_after = Some(time);
        self
    }

    /// Starts it on a free port of loopback.
    pub async fn start(self) -> StandIn {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        self.start_on(listener)
    }

    /// Starts it on this listener, for a Piston that comes back where it was.
    pub fn start_on(self, listener: TcpListener) -> StandIn {
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(self.state));
        let idle = self.close_idle_after;
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            // Dropped with the task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().unwrap().connections += 1;
                connections.spawn(converse(stream, Arc::clone(&shared), idle));
            }
        });
        StandIn { addr, state, task }
    }
}

/// A stand-in for Piston on a free port of loopback. Dropped, it is gone at once.
#[derive(Debug)]
pub struct StandIn {
    /// Where it listens.
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl StandIn {
    /// An empty script.
    pub fn script() -> Script {
        Script {
            state: State {
                steps: VecDeque::new(),
                always: None,
                runtimes: ScriptedResponse::Whole {
                    status: 200,
                    content_type: Some(JSON.to_owned()),
                    body: RECORDED_RUNTIMES.as_bytes().to_vec(),
                },
                readiness: ScriptedResponse::stdout("42\n"),
                about: None,
                asked: Vec::new(),
                complaints: Vec::new(),
                connections: 0,
                left: 0,
            },
            close_idle_after: None,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it was asked so far, but for the runtimes and the readiness executions.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.lock().unwrap().asked.clone()
    }

    /// What it does with the next request behind those that the script has.
    pub fn respond_next(&self, response: ScriptedResponse) {
        self.state.lock().unwrap().steps.push_back((None, response));
    }

    /// What it says from now on when it is asked for its runtimes.
    pub fn will_list(&self, runtimes: ScriptedResponse) {
        self.state.lock().unwrap().runtimes = runtimes;
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    /// How many requests were given up by the adapter while their response was held back.
    pub fn left(&self) -> usize {
        self.state.lock().unwrap().left
    }

    /// Waits until it has been asked so often.
    pub async fn received(&self, count: usize) {
        self.until("requests", |state| state.asked.len() >= count)
            .await;
    }

    /// Waits until so many requests have been given up.
    pub async fn abandoned(&self, count: usize) {
        self.until("requests given up", |state| state.left >= count)
            .await;
    }

    async fn until(&self, what: &str, reached: impl Fn(&State) -> bool) {
        let reaching = async {
            while !reached(&self.state.lock().unwrap()) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(PATIENCE, reaching).await.is_err() {
            panic!("the stand-in waited for {what} in vain");
        }
    }

    /// What was not as the script has it: wrong requests, requests too many, requests too few.
    pub fn complaints(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let mut complaints = state.complaints.clone();
        if !state.steps.is_empty() {
            complaints.push(format!("{} more requests were expected", state.steps.len()));
        }
        complaints
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The URL of a port on which nobody listens.
pub async fn refused_url() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

impl State {
    fn next_response(&mut self, request: ReceivedRequest) -> ScriptedResponse {
        if request.method == "GET" && request.path == RUNTIMES {
            return self.runtimes.clone();
        }
        if let ("GET", "/", Some(about)) =
            (request.method.as_str(), request.path.as_str(), &self.about)
        {
            return about.clone();
        }
        if request.path == EXECUTE && request.is_readiness() {
            return self.readiness.clone();
        }
        let (expected, response) = match (self.steps.pop_front(), &self.always) {
            (Some(step), _) => step,
            (None, Some(response)) => (None, response.clone()),
            (None, None) => {
                self.complaints
                    .push(format!("unexpected: {} {}", request.method, request.path));
                (None, ScriptedResponse::empty(500))
            }
        };
        if let Some(expected) = expected {
            let difference = request_difference(
                &expected,
                &request.method,
                &request.path,
                &request.headers,
                &request.body,
            );
            self.complaints
                .extend(difference.map(|difference| format!("request Piston: {difference}")));
        }
        self.asked.push(request);
        response
    }
}

/// Answers one connection's requests. An error is the client's leaving.
async fn converse(
    mut stream: TcpStream,
    state: Arc<Mutex<State>>,
    idle: Option<Duration>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Buffer::default();
    loop {
        let reading = buffer.request(&mut stream);
        let message = match idle {
            Some(idle) => match timeout(idle, reading).await {
                Ok(message) => message?,
                Err(_) => return Ok(()),
            },
            None => reading.await?,
        };
        let Some(Message {
            start,
            headers,
            body,
        }) = message
        else {
            return Ok(());
        };
        let mut words = start.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let asked = ReceivedRequest {
            method: word(),
            path: word(),
            headers,
            body,
        };
        let mut response = state.lock().unwrap().next_response(asked);
        let bytes = loop {
            response = match response {
                ScriptedResponse::Held(..)
                | ScriptedResponse::After(..)
                | ScriptedResponse::Never => tokio::select! {
                    next = response.wait() => next,
                    () = buffer.ended(&mut stream) => {
                        state.lock().unwrap().left += 1;
                        return Ok(());
                    }
                },
                ScriptedResponse::Close => return Ok(()),
                ScriptedResponse::Reset => {
                    // Closing with a linger time of zero sends a reset.
                    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                    return Ok(());
                }
                ScriptedResponse::Bytes(bytes) => {
                    stream.write_all(&bytes).await?;
                    return stream.shutdown().await;
                }
                ScriptedResponse::Flood(head, bytes) => {
                    return flood(&mut stream, &head, bytes).await;
                }
                ScriptedResponse::Open(bytes) => break bytes,
                whole @ ScriptedResponse::Whole { .. } => break whole.bytes(),
            };
        };
        stream.write_all(&bytes).await?;
    }
}

async fn flood(stream: &mut TcpStream, head: &[u8], bytes: u64) -> io::Result<()> {
    stream.write_all(head).await?;
    let part = vec![b'x'; 256 << 10];
    for _ in 0..bytes / part.len() as u64 {
        stream.write_all(&part).await?;
    }
    stream.shutdown().await
}
