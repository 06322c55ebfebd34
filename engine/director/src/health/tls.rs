//! TLS towards a real server, by the certificates of the config's authority or by any.

use super::doing::Doing;
use super::kinds::{CheckError, HttpCheck, TlsCheck};
use nix::libc::MSG_MORE;
use nix::sys::socket::{MsgFlags, send};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version::TLS12, version::TLS13,
};

/// Shakes hands with a server that is connected.
pub(super) async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    http: &HttpCheck,
    tls: &TlsCheck,
    doing: &Doing,
) -> Result<TlsStream<TcpStream>, CheckError> {
    doing.now(format!("TLS with {address}"));
    let name = server_name(http, tls, address.ip());
    let config = client_config(tls).map_err(|error| doing.unable(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| doing.io(&error))
}

/// Closes, with TLS's goodbye and TCP's in one segment: a server that heard the one before the other
/// would answer it and close, and so be the one that keeps the connection in TIME_WAIT. Ends when
/// the server has closed, too, since what it says to a connection that is gone would bring it a
/// reset.
pub(super) async fn part(stream: TlsStream<TcpStream>) {
    let (mut stream, mut tls) = stream.into_inner();
    tls.send_close_notify();
    let mut goodbye = Vec::new();
    while tls.wants_write() && tls.write_tls(&mut goodbye).is_ok() {}
    // It waits in the kernel for what comes next, the FIN. If there is no room for it, TCP's
    // goodbye has to do.
    let waits = MsgFlags::from_bits_retain(MSG_MORE) | MsgFlags::MSG_NOSIGNAL;
    let _ = send(stream.as_raw_fd(), &goodbye, waits);
    let _ = stream.shutdown().await;
    let mut rest = [0; 1 << 10];
    while let Ok(1..) = stream.read(&mut rest).await {}
}

/// The name that is asked for: the check's, else that of the header Host, else the address.
fn server_name(http: &HttpCheck, tls: &TlsCheck, server: IpAddr) -> ServerName<'static> {
    let host = http.host.as_deref().and_then(|host| {
        let authority = host.parse::<hyper::http::uri::Authority>().ok()?;
        Some(authority.host().trim_matches(['[', ']']).to_owned())
    });
    tls.server_name
        .clone()
        .or(host)
        .and_then(|name| ServerName::try_from(name).ok())
        .unwrap_or_else(|| ServerName::from(server))
}

fn client_config(tls: &TlsCheck) -> Result<ClientConfig, Error> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = match &tls.ca {
        Some(ca) => builder.with_root_certificates(Arc::clone(&ca.roots)),
        None => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
    };
    let mut config = builder.with_no_client_auth();
    // Each check looks at the certificate.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes any certificate whose key the server has: what is proved is that TLS works, not who
/// answers.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
