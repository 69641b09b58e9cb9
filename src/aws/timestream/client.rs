//! The write client of Timestream, with the endpoint it has to ask for first.
//!
//! The service gives each account an endpoint of its own (DescribeEndpoints) and refuses writes elsewhere. Whoever named an
//! endpoint (an emulator, a private link) means that one: it is used as it is, and nobody is asked.
//!
//! Owns: whether to ask, asking once and again before the answer expires. Does not own: what is written (sink).

use aws_config::SdkConfig;
use aws_sdk_timestreamwrite::Client;
use aws_sdk_timestreamwrite::operation::describe_endpoints::DescribeEndpointsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_types::service_config::ServiceConfigKey;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use tokio::sync::Mutex;

use crate::client::{AwsRuntime, Background};
use crate::error::Call;

/// A client that is ready when it is first used: a service that is away at the start delays nobody else.
#[derive(Debug)]
pub struct WriteClient {
    plain: Client,
    /// None: no endpoint has to be asked for.
    found: Option<Mutex<Option<Found>>>,
}

#[derive(Debug)]
struct Found {
    client: Client,
    reloading: Background,
}

impl WriteClient {
    /// A client as the configuration wants it: endpoint discovery is on unless an endpoint is named for all services or for this
    /// one (`AWS_ENDPOINT_URL_TIMESTREAM_WRITE`, or `timestream_write` in the profile's services).
    pub fn new(config: &SdkConfig) -> Self {
        let plain = Client::new(config);
        match is_endpoint_named(config) {
            true => Self::fixed(plain),
            false => Self::discovering(plain),
        }
    }

    /// A client that is used as it is.
    pub fn fixed(plain: Client) -> Self {
        Self { plain, found: None }
    }

    /// A client that asks for its endpoint.
    pub fn discovering(plain: Client) -> Self {
        Self { plain, found: Some(Mutex::new(None)) }
    }

    /// Does it ask for its endpoint?
    pub fn is_discovering(&self) -> bool {
        self.found.is_some()
    }

    pub(super) async fn ready(&self, io: &AwsRuntime) -> Result<Client> {
        let Some(found) = &self.found else { return Ok(self.plain.clone()) };
        let mut found = found.lock().await;
        if let Some(found) = found.as_ref().filter(|found| !found.reloading.is_finished()) {
            return Ok(found.client.clone());
        }
        let plain = self.plain.clone();
        let asked = io.run(async move { plain.with_endpoint_discovery_enabled().await.map_err(|error| fault(error.as_ref())) });
        let (client, reload) = asked.await?;
        let reloading = io.spawn(reload.reload_task());
        *found = Some(Found { client: client.clone(), reloading });
        Ok(client)
    }
}

fn fault(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Fault {
    let call = Call { service: "timestream", operation: "DescribeEndpoints", resource: "*" };
    match error.downcast_ref::<SdkError<DescribeEndpointsError, HttpResponse>>() {
        Some(error) => call.fault(error),
        None => Fault::caused(Kind::Retry, "timestream DescribeEndpoints", error),
    }
}

fn is_endpoint_named(config: &SdkConfig) -> bool {
    let key = ServiceConfigKey::builder().service_id("Timestream Write").env("AWS_ENDPOINT_URL").profile("endpoint_url");
    let own = key.build().ok().and_then(|key| config.service_config().and_then(|service| service.load_config(key)));
    config.endpoint_url().is_some() || own.is_some()
}

#[cfg(test)]
mod tests {
    use aws_config::Region;
    use sluicebox_fakeaws::timestream::FakeTimestream;

    use super::*;
    use crate::client::{ClientSettings, load};
    use crate::fixtures::{CALL, config};

    #[tokio::test]
    async fn who_named_an_endpoint_gets_that_one_and_nobody_is_asked() {
        let fake = FakeTimestream::start().await.expect("starts");
        let client = WriteClient::new(&config(&fake.url(), CALL));
        assert!(!client.is_discovering());
        client.ready(&AwsRuntime::current()).await.expect("is ready");
        assert_eq!(fake.faults().calls("DescribeEndpoints"), 0);
        let elsewhere = config(&fake.url(), CALL).into_builder();
        let elsewhere = elsewhere.region(Region::new("eu-west-1")).build();
        assert!(!WriteClient::new(&elsewhere).is_discovering());
        let mut anywhere = elsewhere.into_builder();
        anywhere.set_endpoint_url(None);
        let anywhere = anywhere.build();
        assert!(WriteClient::new(&anywhere).is_discovering(), "AWS itself is asked");
    }

    #[tokio::test]
    async fn the_endpoint_is_asked_for_once_and_a_service_that_is_away_is_asked_again() {
        let fake = FakeTimestream::start().await.expect("starts");
        // As the program loads it: discovery needs the SDK's own clock, which a bare configuration has not.
        let settings =
            ClientSettings { region: Some("us-east-1".into()), endpoint: Some(fake.url()), ..ClientSettings::default() };
        let loaded = load(&settings).await.expect("loads").into_builder();
        let loaded = loaded.credentials_provider(config(&fake.url(), CALL).credentials_provider().expect("has some")).build();
        let client = WriteClient::discovering(Client::new(&loaded));
        let io = AwsRuntime::current();
        fake.faults().down(true);
        assert_eq!(client.ready(&io).await.expect_err("is away").kind(), Kind::Retry);
        fake.faults().down(false);
        fake.faults().next("DescribeEndpoints", 1, sluicebox_fakeaws::faults::Fault::Status(400, "AccessDeniedException"));
        let fault = client.ready(&io).await.expect_err("may not");
        assert!(fault.kind() == Kind::Config && fault.to_string().contains("timestream:DescribeEndpoints"), "{fault}");
        let asked = fake.faults().calls("DescribeEndpoints");
        client.ready(&io).await.expect("answers");
        client.ready(&io).await.expect("knows");
        assert_eq!(fake.faults().calls("DescribeEndpoints"), asked + 1);
    }
}
