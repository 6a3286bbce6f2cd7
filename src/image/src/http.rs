//! Connections: one pool per set of TLS settings, and what a failed request means.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::Config;
use crate::error::{ErrorKind, Fault};
use crate::hosts::TlsSettings;

/// More sets of settings than this are not a configuration but a leak: the pool starts over.
const MAX_CLIENTS: usize = 128;

/// What connections depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionKey {
    pub(crate) tls: Arc<TlsSettings>,
    pub(crate) connect_timeout: Option<Duration>,
    /// The proxy of the environment is not for this machine itself.
    pub(crate) bypass_proxy: bool,
}

/// HTTP clients by what they depend on.
#[derive(Debug)]
pub(crate) struct Connections {
    user_agent: String,
    connect_timeout: Duration,
    clients: Mutex<HashMap<ConnectionKey, reqwest::Client>>,
    roots: OnceLock<RootCertStore>,
}

impl Connections {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            user_agent: config.user_agent.clone(),
            connect_timeout: config.connect_timeout,
            clients: Mutex::default(),
            roots: OnceLock::new(),
        }
    }

    /// The client for a set of settings. It follows no redirects and sends no credentials of its own.
    pub(crate) fn client(&self, key: &ConnectionKey) -> Result<reqwest::Client, Fault> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(key) {
            return Ok(client.clone());
        }
        let client = self.build(key)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key.clone(), client.clone());
        Ok(client)
    }

    fn build(&self, key: &ConnectionKey) -> Result<reqwest::Client, Fault> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls_config(&key.tls)?)
            .user_agent(self.user_agent.as_str())
            .redirect(Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(key.connect_timeout.unwrap_or(self.connect_timeout))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(8)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30));
        if key.bypass_proxy {
            builder = builder.no_proxy();
        }
        builder.build().map_err(|error| {
            Fault::new(ErrorKind::Config, "cannot set up an HTTP client").with_source(error.without_url())
        })
    }

    /// HTTP/1.1 only: layers then come over connections of their own, not through one flow-control window.
    fn tls_config(&self, settings: &TlsSettings) -> Result<ClientConfig, Fault> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| broken("TLS versions", error))?;
        let builder = if settings.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyone(provider)))
        } else {
            let roots = Arc::new(self.roots_with(&settings.ca)?);
            if roots.is_empty() {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(NoRoots(provider)))
            } else {
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
                builder
                    .with_webpki_verifier(verifier.map_err(|error| broken("certificate authorities", error))?)
            }
        };
        let mut config = match settings.client.first() {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key = if key.expose().is_empty() { certificate } else { key.expose() };
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| broken("client key", error))?;
                builder.with_client_auth_cert(chain, key).map_err(|e| broken("client certificate", e))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The system's authorities, read once, and more.
    fn roots_with(&self, extra: &[Vec<u8>]) -> Result<RootCertStore, Fault> {
        let system = self.roots.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let loaded = rustls_native_certs::load_native_certs();
            let (_, refused) = roots.add_parsable_certificates(loaded.certs);
            if roots.is_empty() {
                tracing::warn!(
                    refused,
                    errors = loaded.errors.len(),
                    "the system has no usable certificate authorities"
                );
            }
            roots
        });
        let mut roots = system.clone();
        for pem in extra {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|error| broken("certificate authority", error))?;
            }
        }
        Ok(roots)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let parsed = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let parsed = parsed.map_err(|error| broken("certificate", error))?;
    if parsed.is_empty() {
        return Err(Fault::new(ErrorKind::Config, "a certificate file of hosts.toml holds no certificate"));
    }
    Ok(parsed)
}

fn broken(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::new(ErrorKind::Config, format!("unusable {what}")).with_source(error)
}

/// The fault behind a request that got no answer. Errors of the HTTP client carry the URL: it is taken off.
pub(crate) fn transport_fault(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    let text = chain_text(&error);
    if error.is_timeout() {
        return Fault::new(ErrorKind::Timeout, "no connection in time").with_source(error);
    }
    if text.contains("certificate") {
        let fault = Fault::new(ErrorKind::Invalid, "the host's TLS certificate is not trusted");
        return fault.with_source(error);
    }
    if text.contains("InvalidContentType") || text.contains("corrupt message") {
        let detail = "the host does not speak TLS; if plain HTTP is meant, say http:// in hosts.toml";
        return Fault::new(ErrorKind::Invalid, detail).with_source(error);
    }
    let detail = if error.is_connect() { "cannot connect" } else { "the connection broke off" };
    Fault::new(ErrorKind::Unavailable, detail).with_source(error)
}

fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// `skip_verify`: takes any certificate, but still checks that the peer has its key.
#[derive(Debug)]
struct AcceptAnyone(Arc<CryptoProvider>);

/// A system without any authority: nothing is trusted, and the error says so.
#[derive(Debug)]
struct NoRoots(Arc<CryptoProvider>);

macro_rules! verifier {
    ($name:ident, $verdict:expr) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                _end_entity: &CertificateDer<'_>,
                _intermediates: &[CertificateDer<'_>],
                _server_name: &ServerName<'_>,
                _ocsp_response: &[u8],
                _now: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                $verdict
            }

            fn verify_tls12_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                let algorithms = &self.0.signature_verification_algorithms;
                rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                let algorithms = &self.0.signature_verification_algorithms;
                rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                self.0.signature_verification_algorithms.supported_schemes()
            }
        }
    };
}

verifier!(AcceptAnyone, Ok(ServerCertVerified::assertion()));
verifier!(NoRoots, Err(rustls::CertificateError::UnknownIssuer.into()));
