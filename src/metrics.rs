//! Numbers of a run, every minute.
//!
//! Owns: looking at the board, when numbers are sent, and sending the last ones at the end. Does not own: the numbers
//! (sluicebox_aws::cloudwatch::metering), the call (sluicebox_aws::cloudwatch::metrics).

use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::model::window::Bound;
use sluicebox_actors::ports::Clock;
use sluicebox_actors::toolkit::board::{Board, Life, Live};
use sluicebox_aws::client::{AwsRuntime, Background};
use sluicebox_aws::cloudwatch::metering::{Hold, Look, Metering};
use sluicebox_aws::cloudwatch::metrics::{CloudWatchMetrics, Published};
use tokio::sync::{mpsc, oneshot};

/// How often the board is looked at: a shard that is new is seen before it has done much.
const LOOK: Duration = Duration::from_millis(250);
/// How long the end of a run waits for the last numbers.
const LAST_NUMBERS: Duration = Duration::from_secs(10);

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

fn look(metering: &mut Metering, board: &Board, now_us: i64) {
    let looks: Vec<_> = board.all().into_iter().map(|(shard, live)| (shard, seen(live))).collect();
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

fn seen(live: Live) -> Look {
    let hold = match live.life {
        Life::Running | Life::Finished => Hold::Ours,
        Life::Starting | Life::Restarting => Hold::Unsure,
        Life::Blocked | Life::Elsewhere => Hold::Foreign,
        Life::Quarantined | Life::Tripped => Hold::GivenUp,
    };
    let open = live.life == Life::Running;
    let bound = live.bound.filter(|bound| open && *bound > Bound::UNKNOWN);
    Look {
        hold,
        totals: live.totals,
        epoch: live.epoch,
        idle: live.idle,
        behind_us: live.behind_us.filter(|_| open),
        bound_us: bound.map(|bound| bound.0),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudwatch::config::{BehaviorVersion, Credentials, Region};
    use sluicebox_actors::model::position::ShardId;
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
            board.update(&shard, |live| (live.life, live.totals.received) = (Life::Running, total));
            look(&mut metering, &board, 0);
            trouble.into_iter().for_each(|trouble| fake.faults().next("PutMetricData", 1, trouble));
            publish(&mut metering, &cloudwatch, 0).await;
        }
        assert_eq!(received(&fake), [0.0, 25.0, 0.0]);
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
