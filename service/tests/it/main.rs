//! The service's own binary against a real Redis, both on loopback.

mod command;
mod counting;
mod faults;
mod hostile;
mod http;
mod link;
mod load;
mod proxy;
mod secured;
mod shutdown;
mod world;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use world::*;
