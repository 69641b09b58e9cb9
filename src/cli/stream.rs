//! `sluicebox stream`: the embedded stream as a service.
//!
//! Owns: its flags, the address it listens on. Does not own: the API (sluicebox_stream::api).

use std::net::{SocketAddr, TcpListener};

use clap::{Args, Subcommand};
use sluicebox_stream::api::{self, Limits, Options, Server};

use super::{CliError, Context, Exit};
use crate::{run, signals};

/// What to do with the embedded stream.
#[derive(Debug, Subcommand)]
pub enum StreamVerb {
    /// Serves the Kinesis API on the streams of the data directory, for the AWS CLI, SDKs and agents
    Serve(ServeArgs),
}

/// Flags of `stream serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen; signatures are not checked, so anything but this machine's own address lets strangers in
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4567")]
    pub listen: SocketAddr,
    /// Allows what a shard on AWS allows and no more: 1 MB/s in, 2 MB/s and 5 reads a second out
    #[arg(long)]
    pub aws_limits: bool,
    /// Misbehaves to order, for tests: POST /__fault takes a plan, GET /__state tells
    #[arg(long)]
    pub faults: bool,
    /// Listens on an address that other machines reach
    #[arg(long)]
    pub public: bool,
}

/// Serves until stopped.
pub fn run(verb: StreamVerb, context: &Context) -> Result<Exit, CliError> {
    let StreamVerb::Serve(args) = verb;
    if !args.listen.ip().is_loopback() && !args.public {
        let message = format!("{} can be reached from other machines, and anybody could read and write there", args.listen);
        return Err(CliError::usage(message, "listen on 127.0.0.1, or add --public if the network is closed"));
    }
    let limits = if args.aws_limits { Limits::aws() } else { Limits::none() };
    let root = context.data().join("stream");
    let server = Server::new(root.clone(), context.clock(), Options { limits, faults: args.faults })?;
    let listener = TcpListener::bind(args.listen).map_err(|error| {
        CliError::usage(
            format!("can't listen on {}: {error}", args.listen),
            "name another --listen ADDRESS; port 0 takes a free one",
        )
    })?;
    let address = listener.local_addr()?;
    let mut output = context.output();
    output.note(&format!(
        "Kinesis API on http://{address}, streams in {}; stop with Ctrl-C. Elsewhere:\n  export \
         AWS_ENDPOINT_URL_KINESIS=http://{address} AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any AWS_REGION=us-east-1",
        root.display()
    ))?;
    run::block_on(api::serve(listener, server, async {
        if let Err(error) = signals::asked().await {
            tracing::warn!(%error, "signals can't be received: stop with SIGKILL, it is safe");
            std::future::pending::<()>().await;
        }
    }))??;
    Ok(Exit::Good)
}
