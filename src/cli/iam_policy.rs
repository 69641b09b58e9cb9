//! `sluicebox iam-policy`: what to allow the role that a pipeline runs under.
//!
//! Owns: its flags, what it prints. Does not own: which calls need what (iam).

use clap::{Args, ValueEnum};
use serde::Serialize;
use sluicebox_actors::model::fault::{Fault, Kind};

use super::{CliError, Context, Exit};
use crate::iam::{Account, Needs, Policy, Role};

/// Flags of `iam-policy`.
#[derive(Debug, Args)]
pub struct IamPolicyArgs {
    /// Whose stream, table and queues these are; without it, ARNs say `*`
    #[arg(long, value_name = "NUMBER", value_parser = account)]
    pub account: Option<String>,
    /// Their region; without it, aws.region of the pipeline file, else `*`
    #[arg(long, env = "AWS_REGION")]
    pub region: Option<String>,
    /// For whom; `all` prints one policy for each, by name
    #[arg(long, value_enum, default_value_t = Whom::Worker)]
    pub role: Whom,
    /// ARN of a KMS key that stream, table, bucket or queues are encrypted with; may be given again
    #[arg(long = "kms-key", value_name = "ARN")]
    pub kms_keys: Vec<String>,
    /// Lease table that `shards import` takes over from: the worker may read it
    #[arg(long, value_name = "NAME")]
    pub kcl_table: Option<String>,
}

/// Whose policy is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Whom {
    /// `run`
    Worker,
    /// The verbs that look and change nothing
    Reader,
    /// `lambda`, and its event source mapping
    Lambda,
    /// Each of them
    All,
}

/// Prints the policy as JSON.
pub fn run(args: IamPolicyArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let region = args.region.as_deref().or(loaded.settings.aws.region.as_deref());
    let needs = Needs { kcl_table: args.kcl_table, ..Needs::of(&loaded.settings) };
    let account = Account::new(args.account.as_deref(), region);
    let policy = |role| Policy::least(&needs, role, &account, &args.kms_keys);
    let text = match args.role {
        Whom::Worker => policy(Role::Worker).as_ref().map(pretty),
        Whom::Reader => policy(Role::Reader).as_ref().map(pretty),
        Whom::Lambda => policy(Role::Lambda).as_ref().map(pretty),
        Whom::All => {
            policy(Role::Worker).map(|worker| pretty(&All { worker, reader: policy(Role::Reader), lambda: policy(Role::Lambda) }))
        }
    };
    let Some(text) = text.transpose()? else {
        let help = "name a pipeline file with stream.kind = \"kinesis\" or store.kind = \"aws\": --config FILE";
        return Err(CliError::failed("this pipeline asks nothing of AWS, and there is no policy that allows nothing", help));
    };
    context.output().raw(format!("{text}\n").as_bytes())?;
    Ok(Exit::Good)
}

/// The policies by role.
#[derive(Serialize)]
struct All {
    worker: Policy,
    reader: Option<Policy>,
    lambda: Option<Policy>,
}

fn pretty(value: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string_pretty(value).map_err(|error| Fault::caused(Kind::Bug, "writing a policy", &error).into())
}

fn account(text: &str) -> Result<String, String> {
    match text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(text.to_owned()),
        false => Err("an account's number has 12 digits".to_owned()),
    }
}
