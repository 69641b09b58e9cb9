//! Numbers of a run, every minute; or of a process that is frozen between its pieces of work, after each of them.
//!
//! Owns: looking at the board, when numbers are sent, and sending the last ones at the end. Does not own: the numbers
//! (sluicebox_aws::cloudwatch::metering), the call (sluicebox_aws::cloudwatch::metrics).

use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::window::Bound;
use sluicebox_actors::ports::Clock;
use sluicebox_actors::toolkit::board::{Board, Life, Live};
use sluicebox_aws::client::{AwsRuntime, Background};
use sluicebox_aws::cloudwatch::metering::{Look, Metering};
use sluicebox_aws::cloudwatch::metrics::{CloudWatchMetrics, Published};
use tokio::sync::{mpsc, oneshot};

/// How often the board is looked at: how long epochs took is known to within that.
const LOOK: Duration = Duration::from_millis(250);
/// How long the end of a run waits for the last numbers.
const LAST_NUMBERS: Duration = Duration::from_secs(10);

/// Pieces of work whose numbers wait to be sent: far more than there are while CloudWatch answers at all.
const WAITING_MAX: usize = 64;

/// Numbers are being sent.
pub struct Measuring {
    stop: mpsc::Sender<()>,
    done: oneshot::Receiver<()>,
    // Ends the task with it.
    _task: Background,
}

/// Begins to look and to send.
pub fn start(
    board: Arc<Board>,
    cloudwatch: CloudWatchMetrics,
    interval: Duration,
    io: &AwsRuntime,
    clock: Arc<dyn Clock>,
) -> Measuring {
    let (stop, stopping) = mpsc::channel(1);
    let (end, done) = oneshot::channel();
    let task = io.spawn(async move {
        measure(&board, &cloudwatch, interval, clock.as_ref(), stopping).await;
        drop(end);
    });
    Measuring { stop, done, _task: task }
}

impl Measuring {
    /// Sends the last numbers, for a few seconds at most.
    pub async fn finish(self) {
        let Self { stop, done, _task } = self;
        drop(stop);
        if tokio::time::timeout(LAST_NUMBERS, done).await.is_err() {
            tracing::warn!("the last numbers could not be sent in time");
        }
    }
}

async fn measure(
    board: &Board,
    cloudwatch: &CloudWatchMetrics,
    interval: Duration,
    clock: &dyn Clock,
    mut stopping: mpsc::Receiver<()>,
) {
    let mut metering = Metering::default();
    let mut looks = tokio::time::interval(LOOK);
    let mut sends = tokio::time::interval(interval);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    sends.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    // The first tick comes at once.
    sends.tick().await;
    loop {
        let (send, last) = tokio::select! {
            _ = stopping.recv() => (true, true),
            _ = sends.tick() => (true, false),
            _ = looks.tick() => (false, false),
        };
        look(&mut metering, board, clock.now_us());
        if send {
            publish(&mut metering, cloudwatch, clock.now_us()).await;
        }
        if last {
            return;
        }
    }
}

/// Numbers are sent when it is said. One call is under way at a time: a process that is frozen in it, and wakes up to find that
/// it failed, has lost its numbers at most, and never says them twice.
pub struct Counting {
    done: mpsc::Sender<Done>,
    // Ends the task with it.
    _task: Background,
}

/// A piece of work that is done.
struct Done {
    looks: Vec<(ShardId, Look)>,
    /// Dropped when its numbers are sent, or known not to have been.
    _sent: oneshot::Sender<()>,
}

/// Waits for work that is done.
pub fn count(cloudwatch: CloudWatchMetrics, io: &AwsRuntime, clock: Arc<dyn Clock>) -> Counting {
    let (done, mut waiting) = mpsc::channel::<Done>(WAITING_MAX);
    let task = io.spawn(async move {
        let mut metering = Metering::default();
        while let Some(first) = waiting.recv().await {
            let mut all = vec![first];
            all.extend(std::iter::from_fn(|| waiting.try_recv().ok()));
            for done in &all {
                metering.look(done.looks.iter().map(|(shard, look)| (shard, look)), clock.now_us());
            }
            publish(&mut metering, &cloudwatch, clock.now_us()).await;
        }
    });
    Counting { done, _task: task }
}

impl Counting {
    /// Sends what stands on the board of a piece of work, and what could not be sent before. It is taken in at once; who stops
    /// waiting changes nothing about that.
    pub async fn send(&self, board: &Board) {
        let (end, sent) = oneshot::channel();
        let looks = board.all().into_iter().map(|(shard, live)| (shard, seen(live, true))).collect();
        match self.done.try_send(Done { looks, _sent: end }) {
            Ok(()) => sent.await.unwrap_or_default(),
            Err(_) => tracing::warn!("CloudWatch has not answered for a long time: the numbers of an invocation are left out"),
        }
    }
}

fn look(metering: &mut Metering, board: &Board, now_us: i64) {
    let looks: Vec<_> = board.all().into_iter().map(|(shard, live)| (shard, seen(live, false))).collect();
    metering.look(looks.iter().map(|(shard, look)| (shard, look)), now_us);
}

async fn publish(metering: &mut Metering, cloudwatch: &CloudWatchMetrics, now_us: i64) {
    match cloudwatch.publish(&metering.data(now_us), now_us).await {
        Published::Stored => metering.sent(),
        Published::Unknown(fault) => {
            tracing::warn!(%fault, "nobody knows whether these numbers arrived; they are not sent again");
            metering.sent();
        }
        Published::NotStored(fault) => tracing::warn!(%fault, "numbers could not be sent; they come with the next"),
    }
}

/// `fresh`: what the board says of shards that others have was looked up for this piece of work, and nobody else tells it.
fn seen(live: Live, fresh: bool) -> Look {
    let open = match live.life {
        Life::Running => true,
        Life::Elsewhere => fresh,
        Life::Starting | Life::Restarting | Life::Blocked => false,
        Life::Finished | Life::Quarantined | Life::Tripped => false,
    };
    let bound = live.bound.filter(|bound| open && *bound > Bound::UNKNOWN);
    Look {
        given_up: live.life.is_lost(),
        since: live.since,
        totals: live.totals,
        epochs: live.epochs,
        idle: live.idle,
        behind_us: live.behind_us.filter(|_| open),
        bound_us: bound.map(|bound| bound.0),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudwatch::config::{BehaviorVersion, Credentials, Region};
    use sluicebox_fakeaws::cloudwatch::FakeCloudWatch;
    use sluicebox_fakeaws::faults::Fault as Trouble;

    use super::*;
    use crate::clock::SystemClock;

    fn cloudwatch_at(url: &str) -> CloudWatchMetrics {
        let config = aws_sdk_cloudwatch::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .endpoint_url(url)
            .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
            .retry_config(aws_sdk_cloudwatch::config::retry::RetryConfig::disabled())
            .build();
        let client = aws_sdk_cloudwatch::Client::from_conf(config);
        CloudWatchMetrics::new(&client, AwsRuntime::current(), "DataPipelines", "p").expect("a good namespace")
    }

    fn received(fake: &FakeCloudWatch) -> Vec<f64> {
        let of = |call: serde_json::Value| {
            let metrics = call["MetricData"].as_array().cloned().unwrap_or_default();
            let found = metrics.iter().find(|metric| metric["MetricName"] == "RecordsReceived").cloned();
            found.and_then(|metric| metric["Value"].as_f64()).expect("is always said")
        };
        fake.calls().into_iter().map(of).collect()
    }

    #[tokio::test]
    async fn what_could_not_be_sent_comes_with_the_next_numbers() {
        let fake = FakeCloudWatch::start().await.expect("starts");
        let (cloudwatch, board, mut metering) = (cloudwatch_at(&fake.url()), Board::default(), Metering::default());
        let shard = ShardId::new("shard-0");
        for (total, trouble) in [(1000, None), (1010, Some(Trouble::Status(403, "AccessDenied"))), (1025, None), (1025, None)] {
            board.update(&shard, |live| {
                (live.since.lease, live.since.totals.received, live.totals.received) = (1, 1000, total);
            });
            look(&mut metering, &board, 0);
            trouble.into_iter().for_each(|trouble| fake.faults().next("PutMetricData", 1, trouble));
            publish(&mut metering, &cloudwatch, 0).await;
        }
        assert_eq!(received(&fake), [0.0, 25.0, 0.0]);
    }

    /// What one invocation leaves: a shard that it took at some total and brought to another.
    fn board(lease: u64, before: u64, after: u64) -> Board {
        let board = Board::default();
        board.update(&ShardId::new("shard-0"), |live| {
            (live.life, live.since.lease) = (Life::Running, lease);
            (live.since.totals.received, live.totals.received) = (before, after);
        });
        board
    }

    #[tokio::test]
    async fn each_invocation_sends_what_it_committed_and_what_could_not_be_sent_before() {
        let fake = FakeCloudWatch::start().await.expect("starts");
        let counting = count(cloudwatch_at(&fake.url()), &AwsRuntime::current(), Arc::new(SystemClock));
        counting.send(&board(3, 1000, 1010)).await;
        fake.faults().next("PutMetricData", 1, Trouble::Status(403, "AccessDenied"));
        // Others had the shard in between.
        counting.send(&board(7, 1500, 1503)).await;
        counting.send(&board(8, 1503, 1504)).await;
        assert_eq!(received(&fake), [10.0, 4.0]);
        // Two at once: neither waits for the other to be counted, and each waits until its own numbers are there.
        fake.faults().next("PutMetricData", 1, Trouble::Delay(Duration::from_millis(200)));
        let (first, second) = (board(9, 1504, 1604), board(10, 1604, 1605));
        tokio::join!(counting.send(&first), counting.send(&second));
        assert_eq!(received(&fake)[2..].iter().sum::<f64>(), 101.0);
    }

    #[tokio::test]
    async fn numbers_that_nobody_waited_for_are_sent_all_the_same() {
        let fake = FakeCloudWatch::start().await.expect("starts");
        let counting = count(cloudwatch_at(&fake.url()), &AwsRuntime::current(), Arc::new(SystemClock));
        fake.faults().next("PutMetricData", 1, Trouble::Delay(Duration::from_millis(100)));
        let waited = tokio::time::timeout(Duration::ZERO, counting.send(&board(3, 0, 5))).await;
        assert!(waited.is_err(), "it takes longer than no time");
        counting.send(&board(4, 5, 7)).await;
        assert_eq!(received(&fake).iter().sum::<f64>(), 7.0);
    }

    #[tokio::test]
    async fn the_end_of_a_run_sends_the_last_numbers() {
        let fake = FakeCloudWatch::start().await.expect("starts");
        let (io, clock) = (AwsRuntime::current(), Arc::new(SystemClock));
        let hour = Duration::from_secs(3600);
        let measuring = start(Arc::new(Board::default()), cloudwatch_at(&fake.url()), hour, &io, clock);
        measuring.finish().await;
        assert_eq!(received(&fake), [0.0]);
    }
}
