//! Certificates for a registry that speaks TLS.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// An authority, a server's certificate for this machine, and a client's.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) client_pem: String,
    pub(crate) client_key_pem: String,
    pub(crate) server: Arc<ServerConfig>,
}

impl Identity {
    pub(crate) fn new(wants_client: bool) -> Self {
        let ca_key = KeyPair::generate().expect("generate a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters without names");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        ca.distinguished_name.push(rcgen::DnType::CommonName, "berth test authority");
        let ca_certificate = ca.self_signed(&ca_key).expect("sign the authority");
        let issuer = Issuer::new(ca, ca_key);

        let issue = |names: &[&str]| {
            let key = KeyPair::generate().expect("generate a key");
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let parameters = CertificateParams::new(names).expect("names of a certificate");
            (parameters.signed_by(&key, &issuer).expect("sign a certificate"), key)
        };
        let (server, server_key) = issue(&["localhost", "127.0.0.1"]);
        let (client, client_key) = issue(&["client.test"]);
        let ca_der = ca_certificate.der().clone();
        let server = server_config(wants_client, ca_der, server.der().clone(), &server_key);
        Self {
            ca_pem: ca_certificate.pem(),
            client_pem: client.pem(),
            client_key_pem: client_key.serialize_pem(),
            server,
        }
    }
}

fn server_config(
    wants_client: bool,
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: &KeyPair,
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider knows the default versions");
    let builder = if wants_client {
        let mut roots = RootCertStore::empty();
        roots.add(ca).expect("take the authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.expect("verify clients"))
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key in PKCS 8");
    Arc::new(builder.with_single_cert(vec![certificate], key).expect("certificate and key fit"))
}
