//! A small HTTP/1.1 server that says which real server it is.
//!
//! `GET /` names the server, `GET /content/N` sends N bytes of [`Content`], `POST /content` checks
//! those that it gets. Each answer carries the server's name and the client's address as the
//! server sees it. One thread serves all connections, so thousands can be held open.

use crate::content::Content;
use crate::error::{Doing, Result};
use crate::netns::Netns;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const FIRST_CONNECTION: u64 = 2;
/// Longest request line and header fields that are accepted, in bytes.
const HEAD_MAX: usize = 8192;
/// Bytes read from a connection at a time.
const READ_SIZE: usize = 65_536;
/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// A running server. It ends, and its connections with it, when the value is dropped.
#[derive(Debug)]
pub struct HttpServer {
    stop: Arc<EventFd>,
    open: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts a server that calls itself `name` at `address` inside `netns`.
    pub fn start(netns: &Netns, name: &str, address: SocketAddr) -> Result<HttpServer> {
        let listener = netns
            .run(|| TcpListener::bind(address))?
            .doing(|| format!("listening at {address} in {}", netns.name()))?;
        HttpServer::serve(listener, name)
            .doing(|| format!("starting a server at {address} in {}", netns.name()))
    }

    fn serve(listener: TcpListener, name: &str) -> io::Result<HttpServer> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let (open, served) = (Arc::default(), Arc::default());
        let mut server_loop = Loop {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listener,
            connections: HashMap::new(),
            next: FIRST_CONNECTION,
            site: Site {
                name: name.to_owned(),
                content: Content::default(),
                served: Arc::clone(&served),
            },
            open: Arc::clone(&open),
        };
        server_loop.listener.set_nonblocking(true)?;
        let readable = |id| EpollEvent::new(EpollFlags::EPOLLIN, id);
        server_loop.epoll.add(&server_loop.listener, readable(LISTENER))?;
        server_loop.epoll.add(&*stop, readable(STOP))?;
        let thread =
            thread::Builder::new().name(format!("http-{name}")).spawn(move || server_loop.run())?;
        Ok(HttpServer { stop, open, served, thread: Some(thread) })
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Requests answered so far.
    pub fn served(&self) -> usize {
        self.served.load(Relaxed)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    epoll: Epoll,
    listener: TcpListener,
    connections: HashMap<u64, Connection>,
    next: u64,
    site: Site,
    open: Arc<AtomicUsize>,
}

impl Loop {
    fn run(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return,
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    STOP => return,
                    id => self.serve(id),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((connection, client)) = self.listener.accept() {
            let id = self.next;
            self.next += 1;
            // A client that is gone already is no reason to stop.
            if connection.set_nonblocking(true).is_err() || connection.set_nodelay(true).is_err() {
                continue;
            }
            if self.epoll.add(&connection, EpollEvent::new(EpollFlags::EPOLLIN, id)).is_ok() {
                self.connections.insert(id, Connection::new(connection, client));
            }
        }
        self.open.store(self.connections.len(), Relaxed);
    }

    fn serve(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let interest = match connection.advance(&self.site) {
            Ok(Wants::ToRead) => EpollFlags::EPOLLIN,
            Ok(Wants::ToWrite) => EpollFlags::EPOLLOUT,
            Ok(Wants::Nothing) | Err(_) => {
                // Dropping the socket takes it out of the epoll set.
                self.connections.remove(&id);
                self.open.store(self.connections.len(), Relaxed);
                return;
            }
        };
        if connection.interest != interest {
            connection.interest = interest;
            let mut event = EpollEvent::new(interest, id);
            if self.epoll.modify(&connection.socket, &mut event).is_err() {
                self.connections.remove(&id);
            }
        }
    }
}

/// What all connections share.
struct Site {
    name: String,
    content: Content,
    served: Arc<AtomicUsize>,
}

/// What a connection waits for.
enum Wants {
    ToRead,
    ToWrite,
    /// It is over.
    Nothing,
}

/// A body that is being received.
struct Upload {
    received: u64,
    length: u64,
    first_difference: Option<u64>,
}

struct Connection {
    socket: TcpStream,
    client: SocketAddr,
    interest: EpollFlags,
    input: Vec<u8>,
    upload: Option<Upload>,
    /// The answer's head, and its body when that is short.
    output: Vec<u8>,
    /// A long body's next byte and its end.
    download: (u64, u64),
    close: bool,
}

impl Connection {
    fn new(socket: TcpStream, client: SocketAddr) -> Connection {
        Connection {
            socket,
            client,
            interest: EpollFlags::EPOLLIN,
            input: Vec::new(),
            upload: None,
            output: Vec::new(),
            download: (0, 0),
            close: false,
        }
    }

    /// Reads, answers and writes until the socket has or takes no more.
    fn advance(&mut self, site: &Site) -> io::Result<Wants> {
        let mut buffer = [0; READ_SIZE];
        loop {
            if !self.write(site)? {
                return Ok(Wants::ToWrite);
            }
            if self.close {
                return Ok(Wants::Nothing);
            }
            if self.take_request(site)? {
                continue;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(Wants::Nothing),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Wants::ToRead),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes what there is to write; false if the socket takes no more for now.
    fn write(&mut self, site: &Site) -> io::Result<bool> {
        loop {
            let (offset, end) = self.download;
            let bytes = match self.output.is_empty() {
                false => &self.output[..],
                true if offset < end => site.content.from(offset, end - offset),
                true => return Ok(true),
            };
            match self.socket.write(bytes) {
                Ok(count) if self.output.is_empty() => self.download.0 += count as u64,
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes on with what was read; false if more must be read first.
    fn take_request(&mut self, site: &Site) -> io::Result<bool> {
        if self.upload.is_some() {
            return Ok(self.take_body(site));
        }
        let Some(end) = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return if self.input.len() > HEAD_MAX {
                Err(io::Error::from(ErrorKind::InvalidData))
            } else {
                Ok(false)
            };
        };
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 4);
        self.answer_request(&head, site);
        Ok(true)
    }

    fn answer_request(&mut self, head: &str, site: &Site) {
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let field = |wanted: &str| {
            lines.clone().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_ascii_lowercase())
            })
        };
        self.close = field("connection").is_some_and(|value| value == "close");
        let length = field("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let long = path.strip_prefix("/content/").and_then(|length| length.parse::<u64>().ok());
        match (method, path, long) {
            ("GET", "/", _) => self.answer(site, "200 OK", &format!("{}\n", site.name)),
            ("GET", _, Some(length)) => {
                self.answer_head(site, "200 OK", length);
                self.download = (0, length);
            }
            ("POST", "/content", _) => {
                self.upload = Some(Upload { received: 0, length, first_difference: None });
            }
            _ => {
                self.close = true;
                self.answer(site, "404 Not Found", "GET /, GET /content/N or POST /content\n");
            }
        }
    }

    fn take_body(&mut self, site: &Site) -> bool {
        let Some(upload) = &mut self.upload else { return false };
        let left = upload.length - upload.received;
        let count = self.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let difference = site.content.first_difference(upload.received, &self.input[..count]);
        upload.first_difference = upload.first_difference.or(difference);
        upload.received += count as u64;
        self.input.drain(..count);
        let Upload { received, length, first_difference } = *upload;
        if received < length {
            return false;
        }
        self.upload = None;
        match first_difference {
            None => self.answer(site, "200 OK", &format!("{length} bytes intact\n")),
            Some(position) => {
                let problem = format!("the byte at {position} differs\n");
                self.answer(site, "422 Unprocessable Content", &problem);
            }
        }
        true
    }

    fn answer(&mut self, site: &Site, status: &str, body: &str) {
        self.answer_head(site, status, body.len() as u64);
        self.output.extend_from_slice(body.as_bytes());
    }

    fn answer_head(&mut self, site: &Site, status: &str, length: u64) {
        let connection = if self.close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Type: text/plain\r\n\
             Connection: {connection}\r\nX-Real-Server: {}\r\nX-Client: {}\r\n\r\n",
            site.name, self.client
        );
        self.output.extend_from_slice(head.as_bytes());
        site.served.fetch_add(1, Relaxed);
    }
}
