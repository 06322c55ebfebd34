//! The API over TCP: the same commands, and who is not let in.

use crate::world::{SERVICE, World};
use director::api;
use director::api_access::{Access, Bounds, serve};
use director::config_api::{ApiListen, TlsFiles};
use director::listen;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs::{Permissions, set_permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

const TOKEN: &str = "a-token-of-this-world";
const PATIENCE: Duration = Duration::from_secs(20);

/// A world whose API listens at a TCP address, too.
struct Reachable {
    world: World,
    address: SocketAddr,
    access: Arc<Access>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// An authority and the certificates that it issues.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key for a name or address.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

impl World {
    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, content).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn tls_files(&self, (certificate, key): &(String, String)) -> TlsFiles {
        TlsFiles {
            certificate: self.write("certificate.pem", certificate),
            key: self.write("key.pem", key),
        }
    }
}

impl Reachable {
    fn new(tls: Option<&(String, String)>, bounds: Bounds) -> Reachable {
        let world = World::new();
        let token_file = world.write("token", &format!("{}\n", TOKEN));
        let tls = tls.map(|issued| world.tls_files(issued));
        let listen = ApiListen { address: "127.0.0.1:0".parse().unwrap(), token_file, tls };
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, starting) = mpsc::channel();
        let routes = api::routes(world.supervisor.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let (listener, access) = listen::api_over_tcp(&listen).unwrap();
                started.send((listener.local_addr().unwrap(), access.clone())).unwrap();
                tokio::spawn(serve(listener, access, routes, bounds));
                let _ = stopped.await;
            });
        });
        let (address, access) = starting.recv().unwrap();
        Reachable { world, address, access, stop: Some(stop), thread: Some(thread) }
    }

    /// Runs `shunt` with these words and the environment that `over` makes.
    fn shunt(
        &self,
        words: &str,
        url: &str,
        token: Option<&str>,
        authority: Option<&str>,
    ) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
        command.args(words.split(' ')).args(["--api", url]).env_remove("SHUNT_TOKEN_FILE");
        if let Some(token) = token {
            command.arg("--token-file").arg(self.world.write("client-token", token));
        }
        if let Some(authority) = authority {
            command.arg("--ca").arg(self.world.write("ca.pem", authority));
        }
        command.output().unwrap()
    }

    fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    fn https(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The whole answer to these bytes. The connection is shut down for sending only if told so.
    fn send(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Reachable {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn failed(output: &Output, expected: &str) {
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(message.contains(expected), "{expected:?} is not in {message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!message.contains(TOKEN), "{message}");
}

/// What `shunt list` prints, all but the line that tells the time.
fn listing(output: &Output) -> Vec<String> {
    done(output).lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn commands_work_over_all_three_ways() {
    let authority = Authority::new("one");
    let plain = Reachable::new(None, Bounds::default());
    let expected = listing(&plain.world.shunt("list"));
    assert_eq!(listing(&plain.shunt("list", &plain.http(), Some(TOKEN), None)), expected);

    let tls = Reachable::new(Some(&authority.issue("127.0.0.1")), Bounds::default());
    let over_tls =
        |words: &str| tls.shunt(words, &tls.https(), Some(TOKEN), Some(&authority.certificate));
    assert_eq!(listing(&over_tls("list")), expected);
    done(&over_tls(&format!("service set {SERVICE} --scheduler wrr")));
    done(&over_tls(&format!("server set {SERVICE} 172.17.100.1 --weight 7")));
    assert_eq!(tls.world.server(1).unwrap().weight, 7);
    for number in 0..2_000 {
        tls.world.send(0, &frames::tcp_of(number, "S"));
    }
    let flows: Vec<serde_json::Value> =
        serde_json::from_str(&done(&over_tls("list --flows --json"))).unwrap();
    assert_eq!(flows.len(), 2_000);
    let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/wrr/wrr.wasm");
    done(&over_tls(&format!("plugin upload {plugin} --name mine")));
    assert!(done(&over_tls("plugin list")).contains("mine"));
    let saved = done(&over_tls("save"));
    assert!(saved.contains("scheduler = \"wrr\"") && saved.contains("weight = 7"), "{saved}");
    failed(&over_tls(&format!("server set {SERVICE} 172.17.100.9 --weight 1")), "172.17.100.9");
}

#[test]
fn the_token_file_may_be_named_by_the_environment() {
    let reachable = Reachable::new(None, Bounds::default());
    let output = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .args(["list", "--api", &reachable.http()])
        .env("SHUNT_TOKEN_FILE", reachable.world.folder.join("token"))
        .output()
        .unwrap();
    assert!(done(&output).contains("172.17.100.100:80"));
}

#[test]
fn who_has_no_token_or_another_is_turned_away_and_nothing_changes() {
    let reachable = Reachable::new(None, Bounds::default());
    let set = format!("server set {SERVICE} 172.17.100.1 --weight 7");
    let url = reachable.http();
    failed(&reachable.shunt(&set, &url, Some("another-token-of-this-length"), None), "is wrong");
    failed(&reachable.shunt(&set, &url, None, None), "--token-file");
    failed(&reachable.shunt(&set, &url, Some("short"), None), "holds no token");

    let body = "{\"weight\": 7}";
    let request = |header: &str| {
        format!(
            "PATCH /v1/services/{SERVICE}/servers/172.17.100.1 HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for (header, challenge) in [
        ("", "www-authenticate: Bearer realm=\"shunt\"\r\n"),
        ("Authorization: Basic cm9vdDpyb290\r\n", "www-authenticate: Bearer realm=\"shunt\"\r\n"),
        ("Authorization: Bearer x\r\n", "error=\"invalid_token\"\r\n"),
    ] {
        let answer = reachable.send(request(header).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains(challenge), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let error: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(error["error"].as_str().unwrap().contains("token_file"), "{error}");
    }
    // Nobody learns what there is, either.
    for path in ["/v1/nothing", "/metrics", "/"] {
        let answer = reachable.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    assert_eq!(reachable.world.server(1).unwrap().weight, 1);
    let header = format!("Authorization: Bearer {}\r\nConnection: close\r\n", TOKEN);
    let answer = reachable.send(request(&header).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert_eq!(reachable.world.server(1).unwrap().weight, 7);
}

#[test]
fn a_director_that_cannot_prove_itself_gets_no_token() {
    let (ours, other) = (Authority::new("one"), Authority::new("other"));
    let tls = Reachable::new(Some(&ours.issue("127.0.0.1")), Bounds::default());
    let (url, token) = (tls.https(), TOKEN);
    let list = |url: &str, authority: Option<&str>| tls.shunt("list", url, Some(token), authority);
    failed(&list(&url, Some(&other.certificate)), "--ca names the certificate");
    failed(&list(&url, None), "with --ca");
    failed(&list(&url, Some("no certificate")), "holds no usable certificate");
    failed(&tls.shunt("list", &url, None, Some(&ours.certificate)), "--token-file");
    // The certificate is for the address, not for this name.
    let by_name = format!("https://localhost:{}", tls.address.port());
    failed(&list(&by_name, Some(&ours.certificate)), "a name or address that is in it");
    // Plain HTTP to a port that speaks TLS, and the other way around.
    failed(&list(&tls.http(), None), "this port speaks TLS");
    let plain = Reachable::new(None, Bounds::default());
    failed(&list(&plain.https(), Some(&ours.certificate)), "Without one it is http://");
    assert!(done(&list(&url, Some(&ours.certificate))).contains("172.17.100.100:80"));
}

#[test]
fn a_self_signed_certificate_is_its_own_authority() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let tls = Reachable::new(Some(&(certificate.clone(), key.serialize_pem())), Bounds::default());
    done(&tls.shunt("list", &tls.https(), Some(TOKEN), Some(&certificate)));
}

#[test]
fn garbage_disturbs_nobody() {
    let authority = Authority::new("one");
    for tls in [None, Some(authority.issue("127.0.0.1"))] {
        let reachable = Reachable::new(tls.as_ref(), Bounds::default());
        let mut noise = 0x9E37_79B9_u32;
        let mut garbage = |length: usize| -> Vec<u8> {
            let mut next = || {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            };
            (0..length).map(|_| next()).collect()
        };
        let heads: [&[u8]; 6] = [
            b"",
            b"GET ",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\x00\x10",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"\x80\x01",
        ];
        for head in heads {
            let bytes = [head, &garbage(3_000), b"\r\n\r\n"].concat();
            let answer = reachable.send(&bytes);
            assert!(!answer.contains("HTTP/1.1 2"), "{answer}");
        }
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1 << 20));
        let mut stream = TcpStream::connect(reachable.address).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // It may be cut off before the end.
        let _ = stream.write_all(long.as_bytes());
        assert_eq!(reachable.world.services().services.len(), 1);
    }
}

#[test]
fn who_keeps_places_without_a_word_loses_them() {
    let authority = Authority::new("one");
    let bounds = Bounds {
        connections: 2,
        handshake: Duration::from_millis(300),
        head: Duration::from_millis(300),
    };
    for tls in [None, Some(authority.issue("127.0.0.1"))] {
        let reachable = Reachable::new(tls.as_ref(), bounds);
        let idle: Vec<TcpStream> = (0..6)
            .map(|number| {
                let mut stream = TcpStream::connect(reachable.address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                // Some begin and do not go on.
                let begun: [&[u8]; 3] = [b"", b"GET /v1/serv", b"\x16\x03\x01\x00\xa5\x01"];
                stream.write_all(begun[number % 3]).unwrap();
                stream
            })
            .collect();
        // The control thread goes on meanwhile.
        assert_eq!(reachable.world.services().services.len(), 1);
        let (url, token) =
            (if tls.is_some() { reachable.https() } else { reachable.http() }, TOKEN);
        done(&reachable.shunt("list", &url, Some(token), Some(&authority.certificate)));
        for mut stream in idle {
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer);
            let kind = ended.err().map(|error| error.kind());
            assert!(kind.is_none_or(|kind| kind == ErrorKind::ConnectionReset), "{kind:?}");
        }
    }
}

#[test]
fn a_kept_connection_ends_when_nothing_comes() {
    let bounds = Bounds { head: Duration::from_millis(300), ..Bounds::default() };
    let reachable = Reachable::new(None, bounds);
    let request =
        format!("GET /v1/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", TOKEN);
    // Read to its end, which only the director brings about.
    let answer = reachable.send(request.repeat(2).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
}

#[test]
fn token_and_certificate_are_read_anew_or_stay() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tls = Reachable::new(Some(&old.issue("127.0.0.1")), Bounds::default());
    let list = |token: &str, authority: &Authority| {
        tls.shunt("list", &tls.https(), Some(token), Some(&authority.certificate))
    };
    done(&list(TOKEN, &old));

    tls.world.write("token", "the-next-token-1");
    tls.world.tls_files(&new.issue("127.0.0.1"));
    done(&list(TOKEN, &old)); // nobody has told it yet
    tls.access.read_anew().unwrap();
    done(&list("the-next-token-1", &new));
    failed(&list(TOKEN, &new), "the token is wrong");
    failed(&list("the-next-token-1", &old), "--ca");

    for (name, content, expected) in [
        ("token", "short", "holds no token"),
        ("certificate.pem", "nothing", "holds no usable certificate"),
        ("certificate.pem", &new.issue("127.0.0.1").0, "holds no key for the certificate"),
        ("key.pem", "nothing", "holds no key for the certificate"),
    ] {
        let path = tls.world.folder.join(name);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, content).unwrap();
        let error = tls.access.read_anew().unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(name), "{error}");
        std::fs::write(&path, good).unwrap();
    }
    set_permissions(tls.world.folder.join("key.pem"), Permissions::from_mode(0o644)).unwrap();
    let error = tls.access.read_anew().unwrap_err().to_string();
    assert!(error.contains("key.pem holds a secret"), "{error}");
    done(&list("the-next-token-1", &new));
}
