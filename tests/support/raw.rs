//! A client that sends bytes as they are given.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use http::HeaderMap;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::eventually::PATIENCE;
use super::http1::Buffer;
use super::schema;

/// One response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header's value, empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

/// One connection, kept open from response to response. Each response to a request that was sent whole is
/// held against Azure's documents.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Buffer,
    asked: VecDeque<(String, String)>,
}

impl Connection {
    /// Connects.
    pub async fn to(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap())
    }

    /// Connects, with little room for what is not read yet.
    pub async fn with_little_room(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::over(socket.connect(addr).await.unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Buffer::default(),
            asked: VecDeque::new(),
        }
    }

    /// Sends bytes: a whole request, a part of one or no request at all.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.asked.extend(request_line(bytes.as_ref()));
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends bytes, and says whether the other end still takes them.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Says that nothing more will be sent, and still reads.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads the next response.
    pub async fn read_response(&mut self) -> Response {
        self.try_answer().await.expect("a response")
    }

    /// Reads the next response, or says why there is none.
    pub async fn try_answer(&mut self) -> io::Result<Response> {
        let reading = self.buffer.response(&mut self.stream);
        let message = timeout(PATIENCE, reading)
            .await
            .expect("a response in time")?;
        let status = message.start.split(' ').nth(1).unwrap_or_default();
        let response = Response {
            status: status
                .parse()
                .unwrap_or_else(|_| panic!("{:?}", message.start)),
            headers: message.headers,
            body: message.body,
        };
        if let Some((method, target)) = self.asked.pop_front() {
            schema::check(&method, &target, &response);
        }
        Ok(response)
    }

    /// Waits until the response begins.
    pub async fn readable(&mut self) {
        let waiting = timeout(PATIENCE, self.stream.readable()).await;
        waiting.expect("a response in time").unwrap();
    }

    /// Waits until so many bytes of a response have come.
    pub async fn receive(&mut self, bytes: usize) {
        let mut some = vec![0; bytes];
        let reading = self.stream.read_exact(&mut some);
        timeout(PATIENCE, reading)
            .await
            .expect("bytes in time")
            .unwrap();
    }

    /// Reads everything up to the end of the connection, as text.
    pub async fn everything(&mut self) -> String {
        let mut bytes = Vec::new();
        let reading = self.stream.read_to_end(&mut bytes);
        timeout(PATIENCE, reading).await.expect("an end").unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the other end has closed; bytes that come before are an error.
    pub async fn closed(&mut self) {
        let mut byte = [0];
        let read = timeout(PATIENCE, self.stream.read(&mut byte)).await;
        match read.expect("a closed connection in time") {
            Ok(0) => {}
            Ok(_) => panic!("more bytes: {byte:?}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

/// Method and target of a request that is sent whole and plain.
fn request_line(bytes: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let line = text.split("\r\n").next()?.strip_suffix(" HTTP/1.1")?;
    let (method, target) = line.split_once(' ')?;
    let is_plain = target.starts_with('/') && target.len() < 1000 && text.contains("\r\n\r\n");
    is_plain.then(|| (method.to_owned(), target.to_owned()))
}

/// A request's bytes. Where there is a body its length is added, and that it is JSON unless `headers`
/// say what it is.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let is_typed = headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if !body.is_empty() && !is_typed {
        text += "Content-Type: application/json\r\n";
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    format!("{text}\r\n{body}").into_bytes()
}

/// Sends bytes over a connection of their own and reads one response.
pub async fn exchange(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Response {
    let mut connection = Connection::to(addr).await;
    connection.send(bytes).await;
    connection.read_response().await
}

/// A `GET`.
pub async fn get(addr: SocketAddr, path: &str) -> Response {
    exchange(addr, request("GET", path, &[], "")).await
}

/// A `POST` of JSON.
pub async fn post(addr: SocketAddr, path: &str, body: &str) -> Response {
    let headers = [("Content-Type", "application/json")];
    exchange(addr, request("POST", path, &headers, body)).await
}
