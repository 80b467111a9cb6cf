//! Connections between ranks, plain or through TLS 1.3.
//!
//! Who is at the other end was proved by the group's token before, in the open. TLS keeps what follows from
//! being read and changed. Its keys are each process's own and mean nothing to anybody, so nobody has to give out
//! certificates; that no third party sits between two sessions is proved by the token once more, over a value
//! that only the two ends of one session know (RFC 5705, RFC 9266).

use std::io::{ErrorKind as IoKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, DigitallySignedStruct, ServerConfig, ServerConnection};

/// What a session takes in before it is sent, in bytes.
const UNSENT: usize = 256 << 10;
/// An Ed25519 key in PKCS #8 up to its 32 bytes (RFC 8410, section 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// Names the value that both ends of a session derive.
const BINDING: &[u8] = b"EXPORTER-within-collective";

/// A connection to another rank.
pub(super) enum Line {
    Plain(TcpStream),
    Secure(Box<Secure>),
}

pub(super) struct Secure {
    session: Connection,
    stream: TcpStream,
}

impl Line {
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Line::Plain(stream) => stream,
            Line::Secure(secure) => &secure.stream,
        }
    }

    /// Whether nothing waits here that was written.
    pub(super) fn is_flushed(&self) -> bool {
        match self {
            Line::Plain(_) => true,
            Line::Secure(secure) => !secure.session.wants_write(),
        }
    }

    /// Tells the other side that nothing more comes.
    pub(super) fn close(&mut self) {
        if let Line::Secure(secure) = self {
            secure.session.send_close_notify();
            // One that cannot be told sees the connection end.
            secure.push().ok();
        }
        self.socket().shutdown(Shutdown::Write).ok();
    }

    pub(super) fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> std::io::Result<usize> {
        match self {
            Line::Plain(stream) => stream.write_vectored(parts),
            Line::Secure(secure) => secure.write_vectored(parts),
        }
    }

    /// All of it, if there is room.
    pub(super) fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Line::Plain(stream) => stream.write_all(bytes),
            Line::Secure(secure) => {
                secure.session.writer().write_all(bytes)?;
                secure.push()
            }
        }
    }

    pub(super) fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Line::Plain(stream) => stream.read(bytes),
            Line::Secure(secure) => secure.read(bytes),
        }
    }

    pub(super) fn read_vectored(&mut self, parts: &mut [IoSliceMut<'_>]) -> std::io::Result<usize> {
        match self {
            Line::Plain(stream) => stream.read_vectored(parts),
            Line::Secure(secure) => match parts.iter_mut().find(|part| !part.is_empty()) {
                Some(part) => secure.read(part),
                None => Ok(0),
            },
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl Secure {
    /// Sends what the socket takes. `WouldBlock` where something is left.
    fn push(&mut self) -> std::io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> std::io::Result<usize> {
        match self.push() {
            Err(error) if error.kind() != IoKind::WouldBlock => return Err(error),
            _ => {}
        }
        let written = self.session.writer().write_vectored(parts)?;
        match self.push() {
            Err(error) if written == 0 || error.kind() != IoKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.session.reader().read(bytes) {
                Err(error) if error.kind() == IoKind::WouldBlock => {}
                // The frames say whether anything is missing.
                Err(error) if error.kind() == IoKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.session.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            self.session.process_new_packets().map_err(|error| std::io::Error::new(IoKind::InvalidData, error))?;
        }
    }
}

/// Which end of a connection this rank is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Called,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Caller => Side::Called,
            Side::Called => Side::Caller,
        }
    }
}

/// Begins a session over a connection whose other end has proved to know the group's token. The socket's calls must
/// come back within a while; `go_on` says whether to try again. `proof` signs a side's view of the session.
pub(super) fn begin(
    stream: TcpStream,
    side: Side,
    go_on: impl Fn() -> bool,
    proof: impl Fn(Side, &[u8; 32]) -> [u8; 32],
) -> std::io::Result<Line> {
    let configs = CONFIGS.as_ref().map_err(|reason| std::io::Error::other(reason.clone()))?;
    let invalid = |error: rustls::Error| std::io::Error::new(IoKind::InvalidData, error);
    let mut session: Connection = match side {
        Side::Caller => {
            let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
            ClientConnection::new(configs.caller.clone(), name).map_err(invalid)?.into()
        }
        Side::Called => ServerConnection::new(configs.called.clone()).map_err(invalid)?.into(),
    };
    session.set_buffer_limit(Some(UNSENT));
    let mut secure = Secure { session, stream };
    while secure.session.is_handshaking() {
        secure.turn(&go_on)?;
    }
    let mut bound = [0; 32];
    secure.session.export_keying_material(&mut bound, BINDING, None).map_err(invalid)?;
    secure.session.writer().write_all(&proof(side, &bound))?;
    let mut theirs = [0; 32];
    let mut filled = 0;
    while filled < theirs.len() {
        match secure.session.reader().read(&mut theirs[filled..]) {
            Ok(0) => return Err(IoKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == IoKind::WouldBlock => secure.turn(&go_on)?,
            Err(error) => return Err(error),
        }
    }
    while secure.session.wants_write() {
        secure.turn(&go_on)?;
    }
    let expected = blake3::Hash::from_bytes(proof(side.other(), &bound));
    // The comparison of hashes takes the same time wherever they differ.
    if expected != blake3::Hash::from_bytes(theirs) {
        return Err(std::io::Error::new(IoKind::PermissionDenied, "somebody sits between the two ends of the session"));
    }
    Ok(Line::Secure(Box::new(secure)))
}

impl Secure {
    /// Sends what there is, or else waits for what comes.
    fn turn(&mut self, go_on: &impl Fn() -> bool) -> std::io::Result<()> {
        let moved = if self.session.wants_write() {
            self.session.write_tls(&mut self.stream)
        } else {
            self.session.read_tls(&mut self.stream)
        };
        match moved {
            Ok(0) => Err(IoKind::UnexpectedEof.into()),
            Ok(_) => {
                let packets = self.session.process_new_packets();
                packets.map(drop).map_err(|error| std::io::Error::new(IoKind::InvalidData, error))
            }
            Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::TimedOut | IoKind::Interrupted) => {
                if go_on() {
                    Ok(())
                } else {
                    Err(IoKind::TimedOut.into())
                }
            }
            Err(error) => Err(error),
        }
    }
}

struct Configs {
    caller: Arc<ClientConfig>,
    called: Arc<ServerConfig>,
}

/// Of this process; why there are none, where it has no random numbers.
static CONFIGS: LazyLock<Result<Configs, String>> = LazyLock::new(configs);

fn configs() -> Result<Configs, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut key = PKCS8.to_vec();
    let mut seed = [0; 32];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut seed));
    random.map_err(|error| format!("no random numbers for a key: {error}"))?;
    key.extend(seed);
    let failed = |error: rustls::Error| format!("no TLS 1.3: {error}");
    let key = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(key.into())).map_err(failed)?;
    let public = key.public_key().ok_or("no TLS 1.3: a key without its public half")?;
    let public = CertificateDer::from(public.as_ref().to_vec());
    let resolver = AlwaysResolvesServerRawPublicKeys::new(Arc::new(CertifiedKey::new(vec![public], key)));
    let called = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]);
    let mut called = called.map_err(failed)?.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    // Nothing is resumed.
    called.send_tls13_tickets = 0;
    let caller = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]);
    let caller = caller.map_err(failed)?.dangerous().with_custom_certificate_verifier(Arc::new(AnyKey(provider)));
    Ok(Configs { caller: Arc::new(caller.with_no_client_auth()), called: Arc::new(called) })
}

/// Takes every key whose owner signs this session: who it is, the token proves.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("ranks speak TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let public = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(message, &public, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
