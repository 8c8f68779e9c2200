//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quorate::certificate::{FaultModel, Scheme};
use quorate::{Config, ConfigError, NodeId, Origin, ShardKey};

use crate::audit::Tip;
use crate::cluster::{NodeAt, node_id};
use crate::exit::EXIT_HELP;

/// Runs a quorate node: what is proposed is decided by the configured driver, kept on disk, and applied in one order
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = EXIT_HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Configuration file; all defaults without one
    #[arg(long, global = true, value_name = "FILE", env = "QUORATE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Ask the nodes of a cluster, as the client that this file describes, in place of opening a node here
    #[arg(long, global = true, value_name = "FILE", env = "QUORATE_CONNECT")]
    pub(crate) connect: Option<PathBuf>,
    /// Where the node keeps its data [default: ./quorate-data] [env: QUORATE_NODE_DATA_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Which consensus decides [default: local] [env: QUORATE_DRIVER_KIND]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) driver: Option<String>,
    /// disk: an accept is on stable storage; memory: a restart forgets everything [default: disk]
    /// [env: QUORATE_NODE_DURABILITY]
    #[arg(long, global = true, value_name = "WORD")]
    pub(crate) durability: Option<String>,
    /// How data is printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Say more on standard error; twice for still more. RUST_LOG goes before
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Global {
    /// File, environment and flags together.
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        let mut builder = Config::builder();
        if let Some(file) = &self.config {
            builder = builder.file(file)?;
        }
        builder = builder.environment(std::env::vars_os())?;
        let flag = |flag: &str| Origin::Flag { flag: flag.into() };
        if let Some(directory) = &self.data_dir {
            let Some(directory) = directory.to_str() else {
                return Err(ConfigError::Setting {
                    origin: flag("--data-dir"),
                    key: "node.data_dir".into(),
                    value: directory.display().to_string(),
                    problem: "is not UTF-8".into(),
                });
            };
            builder = builder.set("node.data_dir", directory, flag("--data-dir"));
        }
        if let Some(driver) = &self.driver {
            builder = builder.set("driver.kind", driver, flag("--driver"));
        }
        if let Some(durability) = &self.durability {
            builder = builder.set("node.durability", durability, flag("--durability"));
        }
        builder.build()
    }
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// One JSON document, or one for each line of a listing.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Propose the lines of a file, each once; a killed import goes on where it stopped
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
    /// Print the live keys as lines that `import` reads
    Export(ExportArgs),
    /// Read and write single keys
    #[command(subcommand, after_help = KV_HELP)]
    Kv(KvCommand),
    /// Look at the configuration without starting anything
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check every stored record and checkpoint, without writing; stop the node first
    Verify,
    /// Verify what the validators of driver quorum have decided, with nothing but their keys; stop the node first
    #[command(after_help = AUDIT_HELP)]
    Audit(AuditArgs),
    /// Say which driver a data directory has, or take it to another one with all that is in it; stop the node first
    #[command(subcommand)]
    Driver(DriverCommand),
    /// Print how a node is doing, or with --connect each node of a cluster, and why nobody leads
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Look at the members of a cluster, and change them while it runs
    #[command(after_help = MEMBER_HELP)]
    Member(MemberArgs),
    /// Make what the validators of driver quorum are changed with: new keys, and the files of changes
    #[command(subcommand, after_help = VALIDATOR_HELP)]
    Validator(ValidatorCommand),
    /// Measure how fast a cluster, or the node of a data directory, answers; it writes into org quorate, namespace bench
    Bench(BenchArgs),
    /// Run the configured node until SIGTERM or SIGINT; SIGHUP makes it read its certificates anew
    Serve(ServeArgs),
    /// Run a cluster of processes on this machine, for a try; data and certificates stay in its directory
    #[command(after_help = DEV_HELP, args_conflicts_with_subcommands = true)]
    Dev(DevArgs),
    /// Make the certificates and configurations of a new cluster: a directory for each node and each client
    #[command(after_help = INIT_CLUSTER_HELP)]
    InitCluster(InitClusterArgs),
    /// Make the directory of a node that is to be added to a cluster
    InitNode(InitNodeArgs),
    /// Look at certificates, and renew them
    #[command(subcommand)]
    Certs(CertsCommand),
}

/// What the node that is printed is.
const STATUS_HELP: &str = "\
Without --connect the node is opened here, which is refused while another process has it open.";

/// What is audited, and what that says.
const AUDIT_HELP: &str = "\
Examples:
  quorate audit --config n1/node.toml                      what this node has decided
  quorate audit --config n1/node.toml --export h.history   the same, into a file
  quorate audit h.history --genesis genesis.toml           what somebody else has, by your genesis
  quorate audit k.proof --genesis genesis.toml             a single write, as `quorate kv get --proof` made it

Each batch has to follow the one before it, and a quorum of the validators of its height has to have signed for it. Code 1 names the
first that is not so. A tail that is missing cannot be seen: give the tip that another audit printed with --tip.";

/// Who changes members, by driver.
const MEMBER_HELP: &str = "\
With driver raft whoever leads does it. With driver quorum the operators of a quorum of validators approve a change, each at its own node:
approve, remove and power do so at all nodes of the client's file, and answer when it is in force.";

/// How validators change.
const VALIDATOR_HELP: &str = "\
Examples:
  quorate init-node n5=10.0.0.5:7410 --authority cluster          a new node, and the change that adds it: n5/join.change
  quorate validator new-key --config n2/node.toml --out n2.change another key for n2
  quorate validator show n2.change                                what it would change
  quorate --connect client.toml member approve n2.change          approve it";

/// What a try looks like.
const DEV_HELP: &str = "\
Examples:
  quorate dev                       one node, driver local
  quorate dev --nodes 3             three nodes, driver raft
  quorate dev kill-leader           what the loss of the leader costs, while it runs";

/// What init-cluster is given, and what it makes.
const INIT_CLUSTER_HELP: &str = "\
Example:
  quorate init-cluster --nodes n1=10.0.0.1:7410,n2=10.0.0.2:7410,n3=10.0.0.3:7410 --out cluster

The driver is raft unless --driver names another one. A node is reached at HOST:PORT (UDP).
With --driver quorum each node gets a key of its own and all of them the genesis; four nodes are the fewest that can do without one.";

/// The form of the lines, and what a stop means.
const IMPORT_HELP: &str = "\
Lines:
  {\"org\":\"acme\",\"ns\":\"users\",\"op\":\"put\",\"key\":\"7\",\"text\":\"Ada\"}
  {\"org\":\"acme\",\"ns\":\"users\",\"op\":\"put\",\"key\":\"8\",\"val\":\"/wA=\"}    val: the value in base64
  {\"org\":\"acme\",\"ns\":\"users\",\"op\":\"del\",\"key\":\"7\"}

It may be stopped at any time, by ^C or a kill: the same command goes on from there, as long as the file
is the same. A file that has changed, or was imported to its end, is imported from its first line.";

/// What single keys look like.
const KV_HELP: &str = "\
Examples:
  quorate kv put acme/users 7 Ada
  quorate kv get acme/users 7
  quorate kv list acme/users --prefix 7 --limit 10
  quorate kv put acme/users -- -7 -Ada          after -- nothing is taken for an option";

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// A data directory, or a file that --export or `kv get --proof` wrote [default: the configured data directory]
    #[arg(value_name = "DIR|FILE")]
    pub(crate) path: Option<PathBuf>,
    /// The genesis of the cluster, from somebody you trust [default: that of the configuration, or of the file itself]
    #[arg(long, value_name = "FILE")]
    pub(crate) genesis: Option<PathBuf>,
    /// A height, and the hash that it must have; all of it has to be there up to this height
    #[arg(long, value_name = "HEIGHT:HASH")]
    pub(crate) tip: Option<Tip>,
    /// Which group of the data directory
    #[arg(long, value_name = "GROUP", default_value_t = 0)]
    pub(crate) group: u32,
    /// Write what is verified into a new file, which can be verified anywhere
    #[arg(long, value_name = "FILE")]
    pub(crate) export: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print again after so many seconds, until ^C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) watch: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    /// Callers at once, each of which waits for its answer before it calls again
    #[arg(long, default_value_t = 64, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub(crate) clients: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(0..=1_000_000))]
    pub(crate) value_bytes: usize,
    /// Keys that are drawn from
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// Of a hundred calls, how many read
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    pub(crate) reads: u8,
    /// How long, as in 10s
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) time: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    #[command(subcommand)]
    pub(crate) command: MemberCommand,
    /// How long a change may take, as in 90s or 5m. A change that goes on beyond it may still be done
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) within: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Print the members, what they may do, and how they are
    List,
    /// Add a node that runs and waits to be added; it learns, and then votes
    Add {
        /// Its number, new to the cluster, and where the others reach it
        #[arg(value_name = "n4=HOST:PORT")]
        node: NodeAt,
        /// It shall learn and never vote
        #[arg(long)]
        learner: bool,
    },
    /// Make a learner vote once it has caught up
    Promote {
        /// The learner
        #[arg(value_name = "n4", value_parser = node_id)]
        node: NodeId,
    },
    /// Approve a change of the validators of driver quorum, at all nodes of the client's file
    Approve {
        /// What `quorate validator` or `quorate init-node` made; several are one change
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Approve that the signature of a validator of driver quorum weighs another power
    Power {
        /// The validator
        #[arg(value_name = "n2", value_parser = node_id)]
        node: NodeId,
        /// How much from then on
        #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        power: u64,
    },
    /// Remove a member; stop its node when this is done, not before
    Remove {
        /// The member
        #[arg(value_name = "n2", value_parser = node_id)]
        node: NodeId,
    },
    /// Put a node that runs and waits in the place of a member, in one step
    Replace {
        /// The member that goes
        #[arg(value_name = "n2", value_parser = node_id)]
        old: NodeId,
        /// The number of the one that comes, new to the cluster, and where the others reach it
        #[arg(value_name = "n4=HOST:PORT")]
        new: NodeAt,
    },
    /// Make a voter lead
    Transfer {
        /// The voter
        #[arg(value_name = "n2", value_parser = node_id)]
        to: NodeId,
        /// Of this group alone
        #[arg(long, value_name = "GROUP")]
        group: Option<u32>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ValidatorCommand {
    /// Make the next key of the configured node, into its next_key_file, and the change that puts it in force
    NewKey {
        /// Another scheme, to which all validators have to change at once [default: that of the key]
        #[arg(long)]
        scheme: Option<Scheme>,
        /// The new file of the change
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make one change to another scheme of the new keys of all validators
    Scheme {
        /// What `new-key --scheme` made, one of each validator
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// The new file of the change
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print what files would change
    Show {
        /// Files of changes
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DevCommand>,
    /// How many nodes, 1 to 9 [default: 1, or those that the directory has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) nodes: Option<u8>,
    /// Where data and certificates are kept
    #[arg(long, value_name = "DIR", default_value = "quorate-dev")]
    pub(crate) dir: PathBuf,
    /// The port of n1, with those of the others after it [default: free ones]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) base_port: Option<u16>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Kill the leader while somebody writes; print who leads then, the longest gap, and what was lost
    KillLeader {
        /// The directory of the `quorate dev` that runs
        #[arg(long, value_name = "DIR", default_value = "quorate-dev")]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// End also when standard input does, as it does when the process that started this one is gone
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitClusterArgs {
    /// The nodes, each with its number and where the others reach it
    #[arg(long, required = true, value_delimiter = ',', value_name = "n1=HOST:PORT,..")]
    pub(crate) nodes: Vec<NodeAt>,
    /// The directory to make; must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Grow a cluster from the data of one node, which is one of --nodes; the others are added to it
    #[arg(long, value_name = "DATA_DIR")]
    pub(crate) from: Option<PathBuf>,
    /// How long certificates of nodes and clients hold
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = validity_days())]
    pub(crate) validity_days: u32,
    /// With driver quorum: against what the validators stand, byzantine or crash [default: byzantine]
    #[arg(long, value_name = "WORD")]
    pub(crate) fault_model: Option<FaultModel>,
    /// With driver quorum: how they sign, ed25519, ml-dsa-65 or hybrid [default: ed25519]
    #[arg(long, value_name = "WORD")]
    pub(crate) scheme: Option<Scheme>,
    /// With driver quorum: each call is signed by who makes it, so that no validator can invent or change one
    #[arg(long)]
    pub(crate) signed_frames: bool,
    /// The clients, each with a directory of its own
    #[arg(long, value_delimiter = ',', value_name = "NAME,..", default_value = "client")]
    pub(crate) clients: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InitNodeArgs {
    /// The node's number, new to the cluster, and where the others reach it
    #[arg(value_name = "n4=HOST:PORT")]
    pub(crate) node: NodeAt,
    /// The directory that init-cluster made, with the authority
    #[arg(long, value_name = "DIR")]
    pub(crate) authority: PathBuf,
    /// How long its certificate holds
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = validity_days())]
    pub(crate) validity_days: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Print who certificates are of, who signed them, and how long they hold: those of --connect or --config
    Show {
        /// Files in PEM, in place of those of the configuration
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Put a new certificate and key in the place of those of a node or client
    Renew(RenewArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// The directory that init-cluster made, with the authority
    #[arg(long, value_name = "DIR")]
    pub(crate) authority: PathBuf,
    /// The node
    #[arg(long, value_name = "n2", value_parser = node_id, required_unless_present = "client")]
    pub(crate) node: Option<NodeId>,
    /// The client; one that is not there yet gets a directory
    #[arg(long, value_name = "NAME", conflicts_with = "node")]
    pub(crate) client: Option<String>,
    /// The directory with the old certificate [default: that in the authority's directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// How long the new certificate holds
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = validity_days())]
    pub(crate) validity_days: u32,
}

/// As long as an authority, at most.
fn validity_days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=3650)
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// One JSON object on each line; see below
    pub(crate) file: PathBuf,
    /// Propose at most this many frames a second
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// Write a line to standard error each time that this many more frames are answered, in place of the bar
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) report_every: Option<u64>,
    /// Where to remember how far it got [default: imports in the data directory; ./quorate-import with --connect]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Start from the first line even if an earlier import of this file did not come to its end
    #[arg(long)]
    pub(crate) anew: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Write to this file, which appears when it is complete, in place of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// Print the value of a key; its revision goes to standard error
    Get {
        /// Organisation and namespace
        #[arg(value_name = "ORG/NS", value_parser = shard)]
        shard: ShardKey,
        /// The key
        key: String,
        /// With driver quorum, of a node that is stopped: write the newest decided write of the key into a new file, with its certificate;
        /// `quorate audit FILE` verifies that
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
    },
    /// Set a key, and print its revision: how many changes its namespace has had
    Put {
        /// Organisation and namespace
        #[arg(value_name = "ORG/NS", value_parser = shard)]
        shard: ShardKey,
        /// The key
        key: String,
        /// The value; - reads it from standard input
        value: String,
    },
    /// Delete a key, and print the revision of that
    Del {
        /// Organisation and namespace
        #[arg(value_name = "ORG/NS", value_parser = shard)]
        shard: ShardKey,
        /// The key
        key: String,
    },
    /// Print keys in order: key, revision and value, with tabs between them
    List {
        /// Organisation and namespace
        #[arg(value_name = "ORG/NS", value_parser = shard)]
        shard: ShardKey,
        /// Only keys that begin like this
        #[arg(long, default_value = "")]
        prefix: String,
        /// At most this many
        #[arg(long, value_name = "KEYS")]
        limit: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether a node could be started with it, as far as that can be told without starting one
    Check,
    /// Print every key with the value in force and where it comes from
    Explain,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DriverCommand {
    /// Print which driver the data directory has
    Show,
    /// Take the data directory to another driver: every record, revision and session goes on
    #[command(after_help = SWITCH_HELP)]
    Switch(SwitchArgs),
}

/// What a switch does, and what comes after it.
const SWITCH_HELP: &str = "\
The node must be stopped. Its directory is copied first; then everything that it knows to be decided is written anew for
the other driver, read back and compared, and put in force at once: a command that is killed leaves the directory as it
was, or as it is to be. The node is the only voter then. Set `kind` in [driver], start it, and add the others:

  quorate driver switch --to raft --config n1.toml
  quorate serve --config n1.toml
  quorate member add n2=HOST:PORT --connect client.toml

From raft, remove the other voters first; a replica that is not the only voter may lack what others have decided.";

#[derive(Debug, Args)]
pub(crate) struct SwitchArgs {
    /// The driver that shall have it
    #[arg(long, value_name = "NAME")]
    pub(crate) to: String,
    /// Go on from what this replica has, and lose what only others have. Never on two replicas of a cluster
    #[arg(long)]
    pub(crate) from_this_replica: bool,
    /// Where to copy the directory to, new or empty [default: beside it, with .before-switch-1 behind its name]
    #[arg(long, value_name = "DIR")]
    pub(crate) backup: Option<PathBuf>,
}

fn shard(text: &str) -> Result<ShardKey, String> {
    ShardKey::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_makes_sense() {
        super::Cli::command().debug_assert();
    }
}
