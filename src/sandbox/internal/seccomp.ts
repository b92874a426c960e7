/**
 * The system calls that a confined process does not get, as a classic BPF program for the kernel's seccomp filter: what
 * reaches other processes, the kernel's own interfaces, namespaces, mounts, sockets, and memory that no limit counts.
 * Everything else is allowed. Numbers: the kernel's tables for x86-64 and for the generic 64-bit interface (aarch64).
 */

/** Each with its number on x86-64 and on aarch64; -1 where there is none. */
const denied: ReadonlyArray<readonly [name: string, x64: number, arm64: number]> = [
  ["_sysctl", 156, -1],
  ["acct", 163, 89],
  ["add_key", 248, 217],
  ["adjtimex", 159, 171],
  ["bpf", 321, 280],
  ["chroot", 161, 51],
  ["clock_adjtime", 305, 266],
  ["clock_settime", 227, 112],
  ["create_module", 174, -1],
  ["delete_module", 176, 106],
  ["fanotify_init", 300, 262],
  ["finit_module", 313, 273],
  ["fsconfig", 431, 431],
  ["fsmount", 432, 432],
  ["fsopen", 430, 430],
  ["fspick", 433, 433],
  ["init_module", 175, 105],
  ["io_uring_enter", 426, 426],
  ["io_uring_register", 427, 427],
  ["io_uring_setup", 425, 425],
  ["ioperm", 173, -1],
  ["iopl", 172, -1],
  ["kcmp", 312, 272],
  ["kexec_file_load", 320, 294],
  ["kexec_load", 246, 104],
  ["keyctl", 250, 219],
  ["lookup_dcookie", 212, 18],
  ["memfd_create", 319, 279],
  ["memfd_secret", 447, 447],
  ["migrate_pages", 256, 238],
  ["modify_ldt", 154, -1],
  ["mount", 165, 40],
  ["mount_setattr", 442, 442],
  ["move_mount", 429, 429],
  ["move_pages", 279, 239],
  ["mq_open", 240, 180],
  ["msgget", 68, 186],
  ["name_to_handle_at", 303, 264],
  ["nfsservctl", 180, 42],
  ["open_by_handle_at", 304, 265],
  ["open_tree", 428, 428],
  ["perf_event_open", 298, 241],
  ["personality", 135, 92],
  ["pidfd_getfd", 438, 438],
  ["pivot_root", 155, 41],
  ["process_madvise", 440, 440],
  ["process_vm_readv", 310, 270],
  ["process_vm_writev", 311, 271],
  ["ptrace", 101, 117],
  ["quotactl", 179, 60],
  ["quotactl_fd", 443, 443],
  ["reboot", 169, 142],
  ["request_key", 249, 218],
  ["semget", 64, 190],
  ["setdomainname", 171, 162],
  ["sethostname", 170, 161],
  ["setns", 308, 268],
  ["settimeofday", 164, 170],
  ["shmget", 29, 194],
  ["socket", 41, 198],
  ["swapoff", 168, 225],
  ["swapon", 167, 224],
  ["sysfs", 139, -1],
  ["syslog", 103, 116],
  ["umount2", 166, 39],
  ["unshare", 272, 97],
  ["uselib", 134, -1],
  ["userfaultfd", 323, 282],
  ["ustat", 136, -1],
  ["vhangup", 153, 58],
  ["vmsplice", 278, 75]
]

interface Architecture {
  readonly audit: number
  readonly column: 1 | 2
  readonly clone: number
  readonly clone3: number
  readonly ioctl: number
  /** System calls of the 32-bit-pointer interface have this bit set. */
  readonly foreignBit?: number
}

const architectures: Readonly<Record<string, Architecture>> = {
  x64: { audit: 0xc000003e, column: 1, clone: 56, clone3: 435, ioctl: 16, foreignBit: 0x40000000 },
  arm64: { audit: 0xc00000b7, column: 2, clone: 220, clone3: 435, ioctl: 29 }
}

/** Instructions of classic BPF: load a word, jump if equal / at least / any bit set, return. */
const load = 0x20
const equal = 0x15
const atLeast = 0x35
const anyBit = 0x45
const give = 0x06

const allow = 0x7fff0000
const killProcess = 0x80000000
const refuse = (errno: number): number => 0x00050000 | errno
const EPERM = 1
const ENOSYS = 38

/** Where `struct seccomp_data` holds the call's number, the architecture, and the low half of an argument. */
const numberAt = 0
const architectureAt = 4
const argumentAt = (index: number): number => 16 + 8 * index

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
const newNamespaces = 0x7e020000
/** ioctls that put characters into a terminal: TIOCSTI, TIOCLINUX. */
const terminalInput = [0x5412, 0x541c]

type Target = "next" | "allow" | "deny" | "missing" | "kill" | "clone" | "ioctl"
type Instruction =
  | { readonly code: number; readonly value: number; readonly label?: Target; readonly then?: never }
  | { readonly code: number; readonly value: number; readonly then: Target; readonly otherwise: Target }

/** The filter's bytes for `bwrap --seccomp`; `undefined` for an architecture without a table. */
export const filter = (architecture: string = process.arch): Buffer | undefined => {
  const machine = architectures[architecture]
  if (machine === undefined) return undefined
  const on = (code: number, value: number, then: Target, otherwise: Target = "next"): Instruction => ({
    code,
    value,
    then,
    otherwise
  })
  const program: Array<Instruction> = [
    { code: load, value: architectureAt },
    on(equal, machine.audit, "next", "kill"),
    { code: load, value: numberAt },
    ...(machine.foreignBit === undefined ? [] : [on(atLeast, machine.foreignBit, "kill")]),
    ...denied.filter((row) => row[machine.column] >= 0).map((row) => on(equal, row[machine.column], "deny")),
    // its flags lie in memory, where a filter cannot look: "no such call" makes the C library use clone instead
    on(equal, machine.clone3, "missing"),
    on(equal, machine.clone, "clone"),
    on(equal, machine.ioctl, "ioctl", "allow"),
    { code: load, value: argumentAt(0), label: "clone" },
    on(anyBit, newNamespaces, "deny", "allow"),
    { code: load, value: argumentAt(1), label: "ioctl" },
    ...terminalInput.map((request) => on(equal, request, "deny")),
    { code: give, value: allow, label: "allow" },
    { code: give, value: refuse(EPERM), label: "deny" },
    { code: give, value: refuse(ENOSYS), label: "missing" },
    { code: give, value: killProcess, label: "kill" }
  ]
  const bytes = Buffer.alloc(8 * program.length)
  const distance = (from: number, target: Target): number => {
    if (target === "next") return 0
    return program.findIndex((instruction) => instruction.then === undefined && instruction.label === target) - from - 1
  }
  program.forEach((instruction, at) => {
    bytes.writeUInt16LE(instruction.code, 8 * at)
    if (instruction.then !== undefined) {
      bytes.writeUInt8(distance(at, instruction.then), 8 * at + 2)
      bytes.writeUInt8(distance(at, instruction.otherwise), 8 * at + 3)
    }
    bytes.writeUInt32LE(instruction.value >>> 0, 8 * at + 4)
  })
  return bytes
}
