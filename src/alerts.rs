//! From log lines with a field `alert` to people.
//!
//! Whoever raises an alert writes a log line and goes on: a full queue, a slow topic, a webhook that is away hold nobody up, and
//! no sink waits for another. What could not be told stands in the log all the same.
//!
//! Owns: the layer that finds the lines, a queue for each sink, telling it with a few tries. Does not own: the sinks
//! (sluicebox_aws), how often equal alerts are told (machines/alerts).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use sluicebox_actors::machines::alerts::Gate;
use sluicebox_actors::model::fault::{Kind, Result};
use sluicebox_actors::ports::{Alert, AlertSink, Clock};
use sluicebox_aws::client::{AwsRuntime, Background};
use tokio::sync::{mpsc, oneshot};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The field that makes a log line an alert: its value is the alert's name.
const FIELD: &str = "alert";
/// Alerts that wait for a sink.
const QUEUE_MAX: usize = 256;
/// Fields of an alert, and characters of each: with them the queue is bounded in bytes.
const FIELDS_MAX: usize = 16;
const TEXT_MAX: usize = 1000;
/// How often a sink is told before it is given up for this alert.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of a run waits for alerts that are still to be told.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Where the lines of a process are found. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tap(Arc<TapState>);

#[derive(Default)]
struct TapState {
    wire: RwLock<Option<Wire>>,
    overflow: AtomicU64,
}

struct Wire {
    /// One for each sink.
    queues: Vec<mpsc::Sender<Word>>,
    clock: Arc<dyn Clock>,
}

/// What waits in a queue.
enum Word {
    Alert(Alert),
    /// Everything before it has been told: then it is dropped.
    Mark(#[expect(dead_code, reason = "held for its Drop")] oneshot::Sender<()>),
}

impl Tap {
    /// The one of this process: logging starts before anybody knows the settings.
    pub fn of_process() -> Self {
        static TAP: OnceLock<Tap> = OnceLock::new();
        TAP.get_or_init(Self::default).clone()
    }

    /// The layer that finds the lines. Until somebody listens, it does nothing.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let is_alert = FilterFn::new(|metadata| metadata.is_event() && metadata.fields().field(FIELD).is_some());
        Finder(self.clone()).with_filter(is_alert.with_max_level_hint(LevelFilter::WARN))
    }

    /// Alerts that found a queue full.
    pub fn overflow(&self) -> u64 {
        self.0.overflow.load(Ordering::Relaxed)
    }

    fn set(&self, wire: Option<Wire>) {
        *self.0.wire.write().unwrap_or_else(PoisonError::into_inner) = wire;
    }

    fn offer(&self, event: &Event<'_>) {
        let wire = self.0.wire.read().unwrap_or_else(PoisonError::into_inner);
        let Some(wire) = wire.as_ref() else { return };
        let mut alert = Alert { at_us: wire.clock.now_us(), ..Alert::default() };
        event.record(&mut Reader(&mut alert));
        let full = wire.queues.iter().filter(|queue| queue.try_send(Word::Alert(alert.clone())).is_err()).count();
        self.0.overflow.fetch_add(full as u64, Ordering::Relaxed);
    }
}

struct Finder(Tap);

impl<S: Subscriber> Layer<S> for Finder {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        self.0.offer(event);
    }
}

struct Reader<'a>(&'a mut Alert);

impl Visit for Reader<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let value: String = value.chars().take(TEXT_MAX).collect();
        match field.name() {
            FIELD => self.0.name = value,
            "message" => self.0.message = value,
            name if self.0.fields.len() < FIELDS_MAX => self.0.fields.push((name.to_owned(), value)),
            _ => {}
        }
    }
}

/// Alerts are being told.
pub struct Alerting {
    tap: Tap,
    tellers: Vec<Teller>,
}

struct Teller {
    queue: mpsc::WeakSender<Word>,
    done: oneshot::Receiver<()>,
    // Ends the task with it.
    _task: Background,
}

/// Begins to tell these sinks.
pub fn start(tap: &Tap, sinks: Vec<Arc<dyn AlertSink>>, io: &AwsRuntime, clock: Arc<dyn Clock>) -> Alerting {
    let (mut queues, mut tellers) = (Vec::new(), Vec::new());
    for sink in sinks {
        let (sender, words) = mpsc::channel(QUEUE_MAX);
        let (end, done) = oneshot::channel();
        let task = io.spawn(async move {
            tell_all(words, sink.as_ref()).await;
            drop(end);
        });
        tellers.push(Teller { queue: sender.downgrade(), done, _task: task });
        queues.push(sender);
    }
    tap.set(Some(Wire { queues, clock }));
    Alerting { tap: tap.clone(), tellers }
}

impl Alerting {
    /// Waits until everything that has been raised so far is told, or given up. Who stops waiting changes nothing about that.
    pub async fn flush(&self) {
        // All marks before the first wait: the sinks are told side by side.
        let marks: Vec<_> = self.tellers.iter().map(Teller::mark).collect();
        futures_util::future::join_all(marks).await;
    }

    /// Tells what is still to be told, for a few seconds at most.
    pub async fn finish(mut self) {
        self.tap.set(None);
        let tellers = std::mem::take(&mut self.tellers);
        // The tasks stay until all of them are done, or time is over.
        let (done, _tasks): (Vec<_>, Vec<_>) = tellers.into_iter().map(|Teller { done, _task, .. }| (done, _task)).unzip();
        let late = tokio::time::timeout(LAST_WORDS, futures_util::future::join_all(done)).await.is_err();
        let overflow = self.tap.overflow();
        if late || overflow > 0 {
            tracing::warn!(overflow, late, "not all alerts could be told; they stand in the log");
        }
    }
}

impl Drop for Alerting {
    fn drop(&mut self) {
        self.tap.set(None);
    }
}

impl Teller {
    async fn mark(&self) {
        let (end, done) = oneshot::channel();
        // Weakly held, so that the end of the wire is the end of the queue.
        let Some(queue) = self.queue.upgrade() else { return };
        if queue.send(Word::Mark(end)).await.is_ok() {
            drop(queue);
            // It comes to its end by being dropped.
            done.await.unwrap_or_default();
        }
    }
}

async fn tell_all(mut words: mpsc::Receiver<Word>, sink: &dyn AlertSink) {
    let mut gate = Gate::default();
    while let Some(word) = words.recv().await {
        let Word::Alert(mut alert) = word else { continue };
        let Some(repeated) = gate.admit(&alert.name, alert.subject(), alert.at_us) else { continue };
        alert.repeated = repeated;
        if let Err(fault) = tell(sink, &alert).await {
            // No field `alert`: it would come back here.
            tracing::warn!(name = alert.name, sink = sink.name(), %fault, "an alert could not be told");
        }
    }
}

async fn tell(sink: &dyn AlertSink, alert: &Alert) -> Result<()> {
    let mut attempt = 1;
    loop {
        match sink.raise(alert).await {
            Err(fault) if fault.kind() == Kind::Retry && attempt < TRIES => tokio::time::sleep(PAUSE * attempt).await,
            told => return told,
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use sluicebox_actors::model::fault::Fault;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    struct Hand;

    impl Clock for Hand {
        fn now_us(&self) -> i64 {
            7
        }
        fn random(&self) -> u64 {
            0
        }
    }

    #[derive(Default)]
    struct Ear {
        heard: Mutex<Vec<Alert>>,
        failures: AtomicU64,
    }

    #[async_trait::async_trait]
    impl AlertSink for Ear {
        fn name(&self) -> &str {
            "ear"
        }

        async fn raise(&self, alert: &Alert) -> Result<()> {
            let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_ok() {
                return Err(Fault::retry("deaf"));
            }
            self.heard.lock().expect("heard").push(alert.clone());
            Ok(())
        }
    }

    fn shout(tap: &Tap, work: impl FnOnce()) {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(tap.layer()), work);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_with_the_field_alert_is_told_once_and_other_lines_are_not() {
        let (tap, ear) = (Tap::default(), Arc::new(Ear::default()));
        ear.failures.store(2, Ordering::SeqCst);
        shout(&tap, || tracing::error!(alert = "gap", "before anybody listens"));
        let alerting = start(&tap, vec![ear.clone()], &AwsRuntime::current(), Arc::new(Hand));
        let fault = Fault::retry("disk full");
        shout(&tap, || {
            tracing::error!("no alert");
            for _ in 0..3 {
                tracing::error!(alert = "quarantine", shard = %"shard-1", %fault, epoch = 9, "shard given up");
            }
            tracing::warn!(alert = "quarantine", shard = %"shard-2", "shard given up");
        });
        alerting.finish().await;
        shout(&tap, || tracing::error!(alert = "gap", "after everybody left"));
        let heard = ear.heard.lock().expect("heard").clone();
        assert_eq!(heard.iter().map(Alert::subject).collect::<Vec<_>>(), ["shard-1", "shard-2"]);
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = vec![field("shard", "shard-1"), field("fault", "disk full"), field("epoch", "9")];
        let expected = Alert { name: "quarantine".into(), message: "shard given up".into(), fields, at_us: 7, repeated: 0 };
        assert_eq!(heard[0], expected);
        assert_eq!(tap.overflow(), 0);
    }

    /// A sink that does not answer until it is let go.
    struct Wall(tokio::sync::Semaphore);

    #[async_trait::async_trait]
    impl AlertSink for Wall {
        fn name(&self) -> &str {
            "wall"
        }

        async fn raise(&self, _: &Alert) -> Result<()> {
            self.0.acquire().await.map(|passed| passed.forget()).map_err(|_| Fault::retry("closed"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_raised_is_told_when_a_flush_ends_and_a_sink_that_is_away_holds_up_no_other_and_loses_nothing() {
        let (tap, ear, wall) = (Tap::default(), Arc::new(Ear::default()), Arc::new(Wall(tokio::sync::Semaphore::new(0))));
        let alerting = start(&tap, vec![wall.clone(), ear.clone()], &AwsRuntime::current(), Arc::new(Hand));
        alerting.tellers[1].mark().await;
        shout(&tap, || tracing::error!(alert = "gap", shard = 1, "a gap"));
        shout(&tap, || tracing::error!(alert = "gap", shard = 2, "a gap"));
        assert!(tokio::time::timeout(Duration::from_secs(2), alerting.flush()).await.is_err(), "the wall has told nobody");
        assert_eq!(ear.heard.lock().expect("heard").len(), 2);
        wall.0.add_permits(2);
        alerting.flush().await;
        assert_eq!(wall.0.available_permits(), 0, "both came through");
        alerting.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_is_counted_and_holds_nobody_up() {
        let (tap, ear) = (Tap::default(), Arc::new(Ear::default()));
        let alerting = start(&tap, vec![ear.clone()], &AwsRuntime::current(), Arc::new(Hand));
        // One thread: nobody is told before we wait.
        shout(&tap, || (0..QUEUE_MAX + 5).for_each(|n| tracing::error!(alert = "gap", shard = n, "a gap")));
        assert_eq!(tap.overflow(), 5);
        alerting.finish().await;
        assert_eq!(ear.heard.lock().expect("heard").len(), QUEUE_MAX);
    }
}
