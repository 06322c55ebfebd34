use super::http::{http, read_head};
use super::{IMPATIENCE, PATIENCE, ask_within, target};
use crate::health::kinds::{Authority, CheckKind, HttpCheck, TlsCheck};
use rcgen::{
    CertificateParams, CertifiedIssuer, DistinguishedName, DnType, KeyPair, date_time_ymd,
};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, crypto};

/// An authority of its own, whose certificates can be checked.
struct Issuer(CertifiedIssuer<'static, KeyPair>);

impl Issuer {
    fn new(name: &str) -> Issuer {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Issuer(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn authority(&self) -> Option<Authority> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Some(Authority { path: PathBuf::from("/ca.pem"), roots: Arc::new(roots) })
    }

    /// A server for `names` whose certificate ends with `year`.
    fn server(&self, names: &[&str], year: i32) -> Server {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Server { certificate: certificate.der().clone(), key: key.serialize_der() }
    }
}

struct Server {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Server {
    fn acceptor(&self, version: &'static SupportedProtocolVersion) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let config = ServerConfig::builder_with_provider(crypto::ring::default_provider().into())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Asks it once; says what came of it and for which name it was asked.
    async fn ask(
        &self,
        version: &'static SupportedProtocolVersion,
        check: HttpCheck,
    ) -> (Result<(), String>, Option<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = self.acceptor(version);
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { return None };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            // With TLS 1.3 the server is done before the director has refused it.
            let mut head = vec![0; 4];
            if stream.read_exact(&mut head).await.is_err() {
                return name;
            }
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let mut rest = Vec::new();
            // TLS's own goodbye; without it this is an error.
            assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
            name
        };
        let kind = CheckKind::Http(check);
        let target = target(address);
        let (result, name) = tokio::join!(ask_within(PATIENCE, kind, &target), serve);
        let place = [format!("TLS with {address}: "), format!("GET https://{address}/: ")];
        let result = result.map_err(|error| {
            let cause = place.iter().find_map(|place| error.strip_prefix(place));
            cause.unwrap_or_else(|| panic!("{error}")).to_owned()
        });
        (result, name)
    }
}

fn https(ca: Option<Authority>, host: Option<&str>, server_name: Option<&str>) -> HttpCheck {
    let server_name = server_name.map(str::to_owned);
    let tls = Some(TlsCheck { ca, server_name });
    HttpCheck { host: host.map(str::to_owned), tls, ..http() }
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_well_for_its_names_only() {
    let issuer = Issuer::new("one");
    let server = issuer.server(&["www.example.org", "127.0.0.1"], 2999);
    let ca = || issuer.authority();
    for version in [&TLS12, &TLS13] {
        for (host, name, asked) in [
            (None, None, None),
            (Some("www.example.org"), None, Some("www.example.org")),
            (Some("www.example.org:8443"), None, Some("www.example.org")),
            (Some("127.0.0.1"), None, None),
            (Some("other.example.org"), Some("www.example.org"), Some("www.example.org")),
        ] {
            let found = server.ask(version, https(ca(), host, name)).await;
            assert_eq!(found, (Ok(()), asked.map(str::to_owned)), "{host:?} {name:?}");
        }
        for (host, name) in [
            (Some("other.example.org"), None),
            (None, Some("other.example.org")),
            (Some("127.0.0.2"), None),
        ] {
            let error = server.ask(version, https(ca(), host, name)).await.0.unwrap_err();
            assert!(error.contains("certificate not valid for name"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_another_time_is_refused() {
    let [issuer, other, double] = ["one", "other", "one"].map(Issuer::new);
    let [strange, forged] = [&other, &double].map(|other| other.server(&["127.0.0.1"], 2999));
    let old = issuer.server(&["127.0.0.1"], 2001);
    for (server, expected) in
        [(&strange, "UnknownIssuer"), (&forged, "BadSignature"), (&old, "certificate expired")]
    {
        let error = server.ask(&TLS13, https(issuer.authority(), None, None)).await.0.unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(error.chars().count() <= 201, "{error}");
    }
}

#[tokio::test]
async fn without_an_authority_any_certificate_will_do() {
    let server = Issuer::new("one").server(&["other.example.org"], 2001);
    for version in [&TLS12, &TLS13] {
        let (result, name) = server.ask(version, https(None, Some("www.example.org"), None)).await;
        assert_eq!((result, name.as_deref()), (Ok(()), Some("www.example.org")));
    }
}

/// Asks a server that does `serve` with the connection, before any TLS.
async fn ask_without_tls<S: Future<Output = ()>>(
    serve: impl FnOnce(TcpStream) -> S,
) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async { serve(listener.accept().await.unwrap().0).await };
    let kind = CheckKind::Http(https(None, None, None));
    let target = target(address);
    let (result, ()) = tokio::join!(ask_within(IMPATIENCE, kind, &target), serve);
    let what = format!("TLS with {address}: ");
    result.map_err(|error| error.strip_prefix(&what).unwrap_or_else(|| panic!("{error}")).into())
}

#[tokio::test]
async fn what_is_no_tls_is_said() {
    let plain = ask_without_tls(async |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let error = plain.await.unwrap_err();
    assert!(error.contains("corrupt message"), "{error}");
    let closed = ask_without_tls(async |mut stream| {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.unwrap();
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            nix::sys::socket::Shutdown::Write,
        );
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    assert_eq!(closed.await, Err("closed by the server".to_owned()));
    let silent = ask_without_tls(async |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    assert_eq!(silent.await, Err("no answer within 1 s".to_owned()));
}
