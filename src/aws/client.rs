//! How this process speaks to AWS: one configuration, and a runtime of its own for the connections.
//!
//! Owns: the load of region, endpoint and credentials as every SDK finds them (environment, profile, role), time-outs, the SDK's
//! own retries (off: pacing is ours), the app name, the I/O runtime. Does not own: the calls (each adapter), errors (error).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads for AWS I/O: TLS and JSON of a full shard take a fraction of one.
const WORKERS: usize = 2;

/// What may differ from what the SDK finds by itself.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Region; none = as the SDK finds it.
    pub region: Option<String>,
    /// Endpoint of every service; none = as the SDK finds it (`AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_KINESIS`, profile, AWS).
    pub endpoint: Option<String>,
    /// Profile; none = `AWS_PROFILE` or the default.
    pub profile: Option<String>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long one call may take, up to the end of its answer (of an event stream: to the beginning).
    pub call_timeout: Duration,
    /// How often the SDK sends a call, 1 = never again: whoever calls paces itself and wants to know of every throttle.
    pub attempts: u32,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            region: None,
            endpoint: None,
            profile: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            attempts: 1,
        }
    }
}

/// Finds region, endpoint and credentials; reads files and environment, calls nobody before the first request. Make clients from
/// it with `aws_sdk_x::Client::new(&config)`; they share connections and credentials. A region that is nowhere to be found is a
/// `Config` fault.
pub async fn load(settings: &ClientSettings) -> Result<SdkConfig> {
    let name = AppName::new("sluicebox").map_err(|error| Fault::caused(Kind::Bug, "the app name for AWS", &error))?;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .operation_attempt_timeout(settings.call_timeout)
        .build();
    let retries = match settings.attempts {
        0 | 1 => RetryConfig::disabled(),
        attempts => RetryConfig::standard().with_max_attempts(attempts),
    };
    // The version is named, so that an update of the SDK changes no behaviour by itself.
    let mut loader =
        aws_config::defaults(BehaviorVersion::v2026_01_12()).app_name(name).timeout_config(timeouts).retry_config(retries);
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    let config = loader.load().await;
    match config.region() {
        Some(_) => Ok(config),
        None => Err(Fault::config("no AWS region: set AWS_REGION, or region in the profile, or aws.region in the pipeline file")),
    }
}

/// Where AWS I/O runs. Actors run on single threads and compute for long: a connection driven there would stall behind them, and
/// a credential or an event stream would time out for no fault of the service.
#[derive(Clone, Debug)]
pub struct AwsRuntime {
    handle: Handle,
    // The last clone ends it.
    owned: Option<Arc<Owned>>,
}

#[derive(Debug)]
struct Owned(Option<Runtime>);

impl Drop for Owned {
    fn drop(&mut self) {
        // The ordinary end of a runtime waits for its tasks and may not happen on an async thread.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl AwsRuntime {
    /// Starts one with threads of its own.
    pub fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(WORKERS).thread_name("aws").enable_all().build();
        let runtime = runtime.map_err(|error| Fault::caused(Kind::Retry, "starting the threads for AWS", &error))?;
        Ok(Self { handle: runtime.handle().clone(), owned: Some(Arc::new(Owned(Some(runtime)))) })
    }

    /// The runtime we are on: for tests, whose time is that runtime's. Panics where there is none.
    pub fn current() -> Self {
        Self { handle: Handle::current(), owned: None }
    }

    /// For whatever must run on these threads by itself.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs a future there and waits for what it brings. A caller that stops waiting ends it.
    pub async fn run<T, F>(&self, future: F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let mut task = EndsWithItsOwner(self.handle.spawn(future));
        match (&mut task.0).await {
            Ok(answer) => answer,
            Err(error) => Err(Fault::caused(Kind::Bug, "a call to AWS ended abnormally", &error)),
        }
    }

    /// Starts a task that ends when what is returned is dropped.
    pub fn spawn<F>(&self, future: F) -> Background
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Background { task: EndsWithItsOwner(self.handle.spawn(future)) }
    }

    /// Has it threads of its own?
    pub fn is_own(&self) -> bool {
        self.owned.is_some()
    }
}

/// A task in the background; dropping it ends the task.
#[derive(Debug)]
pub struct Background {
    task: EndsWithItsOwner<()>,
}

impl Background {
    /// Has it come to its end?
    pub fn is_finished(&self) -> bool {
        self.task.0.is_finished()
    }
}

#[derive(Debug)]
struct EndsWithItsOwner<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for EndsWithItsOwner<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_run_on_threads_of_their_own_and_the_runtime_may_end_on_an_async_thread() {
        let current = Builder::new_current_thread().build().expect("a runtime");
        current.block_on(async {
            let runtime = AwsRuntime::start().expect("starts");
            assert!(runtime.is_own());
            let name = runtime.run(async { Ok(std::thread::current().name().map(str::to_owned)) }).await.expect("runs");
            assert_eq!(name.as_deref(), Some("aws"));
        });
    }

    #[tokio::test]
    async fn a_call_that_panics_is_a_fault_and_not_the_end_of_the_caller() {
        let answer: Result<()> = AwsRuntime::current().run(async { panic!("boom") }).await;
        assert_eq!(answer.expect_err("ended").kind(), Kind::Bug);
    }

    #[tokio::test]
    async fn who_stops_waiting_ends_the_call() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let runtime = AwsRuntime::current();
        let call = runtime.run(async move {
            std::future::pending::<()>().await;
            drop(sender);
            Ok(())
        });
        tokio::select! {
            biased;
            _ = call => panic!("it never ends"),
            () = tokio::task::yield_now() => {}
        }
        assert!(receiver.await.is_err(), "the call holds the sender while it lives");
    }

    #[tokio::test]
    async fn what_the_settings_say_goes_before_what_the_sdk_finds() {
        let settings = ClientSettings {
            region: Some("eu-west-1".into()),
            endpoint: Some("http://127.0.0.1:1".into()),
            ..ClientSettings::default()
        };
        let config = load(&settings).await.expect("loads");
        assert_eq!(config.region().map(Region::as_ref), Some("eu-west-1"));
        assert_eq!(config.endpoint_url(), Some("http://127.0.0.1:1"));
        assert_eq!(config.retry_config().map(RetryConfig::max_attempts), Some(1));
        assert_eq!(config.app_name().map(AppName::as_ref), Some("sluicebox"));
    }
}
