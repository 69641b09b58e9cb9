//! HTTP for sinks that are no AWS service: the client and the TLS that the AWS SDK brings along.
//!
//! Proxies are found as the SDK finds them (`HTTPS_PROXY`, `NO_PROXY`). Certificates are the machine's. Redirects are not
//! followed: a token would travel along.
//!
//! Owns: one POST and its answer, time-outs, what is shown of an address, secrets. Does not own: what is sent, what an answer
//! means (influx, alerts), retries.

use std::fmt;
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use sluicebox_actors::model::fault::{Fault, Kind, Result};

use crate::client::AwsRuntime;

/// Bytes of an answer that are looked at.
const ANSWER_MAX: usize = 64 << 10;
/// The longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// From the environment variable of this name; a variable that is missing or empty is a `Config` fault that names it.
    pub fn of_variable(variable: &str) -> Result<Self> {
        match std::env::var(variable) {
            Ok(text) if !text.trim().is_empty() => Ok(Self(text.trim().to_owned())),
            Ok(_) | Err(_) => Err(Fault::config(format!("the environment variable {variable} is not set: put the token there"))),
        }
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a secret)")
    }
}

/// An address without what may be secret in it: Debug and Display show scheme and host only.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: String,
    shown: String,
}

impl Address {
    /// `http://` or `https://`, a host, and neither a user nor a fragment.
    pub fn parse(url: &str) -> Result<Self> {
        let bad =
            |why: &str| Err(Fault::config(format!("{why}: write http://HOST or https://HOST, with port and path if need be")));
        let Some((scheme, rest)) = url.split_once("://") else { return bad("an address without http:// or https://") };
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        if !matches!(scheme, "http" | "https") || host.is_empty() || host.starts_with(':') {
            return bad("an address that is not one of HTTP");
        }
        if host.contains('@') || url.contains('#') || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return bad("an address with a user, a fragment or spaces");
        }
        Ok(Self { url: url.trim_end_matches('/').to_owned(), shown: format!("{scheme}://{host}") })
    }

    /// A place below it; `query` pairs are encoded.
    pub(crate) fn with(&self, path: &str, query: &[(&str, &str)]) -> Self {
        let mut url = format!("{}{path}", self.url);
        for (name, value) in query {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(name);
            url.push('=');
            encode(value, &mut url);
        }
        Self { url, shown: self.shown.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Percent-encoding of everything but RFC 3986's unreserved characters.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// How long the server asks to wait, a minute at most.
    pub retry_after: Option<Duration>,
    /// The beginning of its body.
    pub body: Vec<u8>,
}

/// A client with its connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpClient {
    connector: std::sync::Arc<Connector>,
    io: AwsRuntime,
    timeout: Duration,
}

impl HttpClient {
    /// `timeout` is that of a whole call.
    pub fn new(io: AwsRuntime, timeout: Duration) -> Self {
        let builder = ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        let connector = builder.proxy_config(ProxyConfig::from_env()).build();
        Self { connector: std::sync::Arc::new(connector), io, timeout }
    }

    /// Sends, once. Any status is an answer; none is `Retry`.
    pub async fn post(&self, to: &Address, headers: &[(&'static str, String)], body: Vec<u8>) -> Result<Answer> {
        let mut request = HttpRequest::new(SdkBody::from(body));
        let built = request.set_method("POST").map_err(|error| Fault::caused(Kind::Bug, "a request", &error));
        built?;
        // The cause would repeat the address.
        request.set_uri(to.url.as_str()).map_err(|_| Fault::config(format!("{to}: the rest of this address is not valid")))?;
        for (name, value) in headers {
            let set = request.headers_mut().try_insert(*name, value.clone());
            set.map_err(|_| Fault::config(format!("{to}: the header {name} would hold characters that no header may have")))?;
        }
        let (connector, timeout, name) = (self.connector.clone(), self.timeout, to.to_string());
        let call = async move {
            let called = tokio::time::timeout(timeout, async {
                let answer = connector.call(request).await;
                read(answer.map_err(|error| Fault::caused(Kind::Retry, format!("{name} can't be reached"), &error))?, &name).await
            });
            called.await.unwrap_or_else(|_| Err(Fault::retry(format!("{name} gave no answer within {timeout:?}"))))
        };
        self.io.run(call).await
    }
}

async fn read(answer: HttpResponse, name: &str) -> Result<Answer> {
    let status = answer.status().as_u16();
    let seconds = answer.headers().get("retry-after").and_then(|text| text.trim().parse().ok());
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    let mut stream = ByteStream::new(answer.into_body());
    let mut body = Vec::new();
    while body.len() < ANSWER_MAX {
        let cut = |error: aws_smithy_types::byte_stream::error::Error| {
            Fault::caused(Kind::Retry, format!("the answer of {name} was cut short"), &error)
        };
        let Some(bytes) = stream.try_next().await.map_err(cut)? else { break };
        body.extend_from_slice(&bytes[..bytes.len().min(ANSWER_MAX - body.len())]);
    }
    Ok(Answer { status, retry_after, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_secret_nor_the_path_of_an_address_is_ever_shown() {
        let address = Address::parse("https://hooks.example.com:8443/services/T0/B0/s3cret?k=v").expect("good");
        let secret = Secret::new("s3cret");
        let shown = format!("{address} {address:?} {secret:?} {:?}", Some(&secret));
        assert!(!shown.contains("s3cret") && shown.contains("https://hooks.example.com:8443"), "{shown}");
    }

    #[test]
    fn addresses_that_can_not_be_meant_are_refused_with_the_form() {
        for bad in ["", "localhost:8086", "ftp://a", "http://", "http://:80", "http://me:pw@host/", "http://a/b c", "http://a/#x"]
        {
            let fault = Address::parse(bad).expect_err(bad);
            assert!(fault.kind() == Kind::Config && fault.to_string().contains("https://HOST"), "{fault}");
        }
        let address = Address::parse("http://a/").expect("good").with("/write", &[("db", "a b&c"), ("p", "us")]);
        assert_eq!(address.url, "http://a/write?db=a%20b%26c&p=us");
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let fault = Secret::of_variable("SLUICEBOX_NO_SUCH_VARIABLE").expect_err("is not set");
        assert!(fault.kind() == Kind::Config && fault.to_string().contains("SLUICEBOX_NO_SUCH_VARIABLE"), "{fault}");
    }

    #[tokio::test]
    async fn nobody_there_is_a_retry_that_names_the_host() {
        let http = HttpClient::new(AwsRuntime::current(), Duration::from_secs(5));
        let address = Address::parse("http://127.0.0.1:1/secret").expect("good");
        let fault = http.post(&address, &[], Vec::new()).await.expect_err("nobody listens");
        assert!(fault.kind() == Kind::Retry && fault.to_string().contains("http://127.0.0.1:1 "), "{fault}");
        assert!(!fault.to_string().contains("/secret"), "{fault}");
    }
}
