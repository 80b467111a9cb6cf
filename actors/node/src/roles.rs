//! Which role is started how: the only place that knows every role crate.

use std::time::Duration;

use bus::Credentials;
use bus::role::RoleEnv;
use messages::WireError;
use messages::job::Role;
use ractor::ActorCell;
use trainer::link::{Connection, Login};

use crate::config::Config;
use crate::exit::Failure;

/// What the roles need beyond their environment.
#[derive(Debug, Clone)]
pub struct Settings {
    pub trainer: trainer::Config,
    pub data_loader: data_loader::Config,
    pub evaluator: evaluator::Config,
    pub tracker: tracker::Config,
    pub notifier: notifier::Config,
    pub coordinator: coordinator::Config,
}

/// Parses the names of `--roles`; none means all.
pub fn parse(names: &[String]) -> Result<Vec<Role>, Failure> {
    if names.is_empty() || names == ["all"] {
        return Ok(Role::ALL.to_vec());
    }
    let mut roles = Vec::new();
    for name in names {
        let role: Role = name.trim().parse().map_err(Failure::Usage)?;
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles.sort();
    Ok(roles)
}

/// Starts one role. All but the coordinator first wait for the streams to exist.
pub async fn start(
    role: Role,
    env: &RoleEnv,
    settings: &Settings,
    supervisor: ActorCell,
) -> Result<ActorCell, WireError> {
    let (env, settings) = (env.clone(), settings.clone());
    if role != Role::Coordinator {
        let patience = Duration::from_millis(env.bus.timings().claim_timeout_ms);
        env.bus.bind(patience).await.map_err(|error| error.to_wire())?;
    }
    match role {
        Role::Coordinator => coordinator::start(env, settings.coordinator, supervisor).await,
        Role::DataLoader => data_loader::start(env, settings.data_loader, supervisor).await,
        Role::Trainer => trainer::start(env, settings.trainer, supervisor).await,
        Role::Evaluator => evaluator::start(env, settings.evaluator, supervisor).await,
        Role::Tracker => tracker::start(env, settings.tracker, supervisor).await,
        Role::Notifier => notifier::start(env, settings.notifier, supervisor).await,
    }
}

/// The settings that follow from the configuration.
pub fn settings(config: &Config, link: &crate::server::Link) -> Result<Settings, Failure> {
    let me = std::env::current_exe().map_err(|error| {
        let message = format!("own program file: {error}");
        Failure::Infrastructure(WireError::new(messages::error::Code::InternalError, message))
    })?;
    let trainer = trainer::Config {
        slots: config.slots,
        rank_command: vec![me.display().to_string(), "rank".into()],
        connection: Connection {
            url: link.url.clone(),
            login: match &link.credentials {
                Credentials::None => Login::None,
                Credentials::UserPassword { user, password } => {
                    Login::UserPassword { user: user.clone(), password: password.clone() }
                }
                Credentials::File(path) => Login::File { path: path.clone() },
            },
            tls: config.tls.clone(),
            tenant: config.tenant.clone(),
            timings: config.timings,
        },
        threads: config.threads,
        collective_tls: config.collective_tls,
        routes: config.routes.clone(),
        devices: crate::environment::devices(config)?,
        cubins: config.home.join("cubins"),
    };
    let mut notifier = notifier::Config::default();
    if let Some(hosts) = &config.webhook_hosts {
        notifier.allowed_hosts.clone_from(hosts);
    }
    Ok(Settings {
        trainer,
        data_loader: data_loader::Config {
            step_cache: config.cache,
            memory_limit_bytes: config.memory_limit_bytes,
            ..data_loader::Config::default()
        },
        evaluator: evaluator::Config::default(),
        tracker: tracker::Config {
            database: config.tracker_database.clone(),
            event_max_age_s: config.streams.event_max_age_s,
            ..tracker::Config::default()
        },
        notifier,
        coordinator: coordinator::Config { limits: config.streams.limits(), ..coordinator::Config::default() },
    })
}
