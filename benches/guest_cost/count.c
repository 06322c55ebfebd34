// A plugin for QEMU that counts the instructions that its guest executes: for each CPU those of
// the kernel, those of programs, and the turns of a program's loop that waits for work.
//
// Every empty turn of such a loop ends with PAUSE, which is what std::hint::spin_loop becomes and
// the processor's hint that a program spins (Intel SDM, volume 2, "PAUSE"). A loop that waits
// turns the same way again and again. So a turn (from one PAUSE to the next) is taken for waiting
// if it is just as long as the one before and the kernel had no part in it: neither a packet that
// came nor one that was sent. What is left are the turns that did something, each with the one
// empty turn that ended it, whose length is the most frequent one of a loop that has nothing to
// do. Who reads the counts can so take the waiting out of them.
//
//   cc -O2 -shared -fPIC -o libcount.so count.c
//   qemu-system-x86_64 -accel tcg -plugin ./libcount.so,socket=PATH
//
// It listens on a Unix socket. To each byte that it receives it answers with a line of five numbers
// for each CPU: instructions in the kernel, instructions in programs, those of them in turns that
// did something, how many such turns there were, all since the start, and the most frequent
// length of a turn since the last answer.
//
// The declarations are those of include/qemu/qemu-plugin.h, version 4 of the interface (QEMU 9.2
// and later), as far as they are used: Debian has no package with the header alone.
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
typedef struct {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
} qemu_plugin_u64;
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0, QEMU_PLUGIN_CB_NO_REGS = 0 };

typedef void (*translated)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*executed)(unsigned int cpu, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t);
uint64_t qemu_plugin_u64_get(qemu_plugin_u64, unsigned int cpu);
int qemu_plugin_num_vcpus(void);
void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb *, int operation,
						       qemu_plugin_u64, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, executed, int flags, void *);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 4;

enum { CPUS_MAX = 8, LENGTH_MAX = 4096 };

// One of each for every CPU.
struct counts {
	uint64_t kernel, user;
};
static qemu_plugin_u64 kernel, user;
static struct turns {
	// The counts at the end of the last one, and how long it was.
	uint64_t user, kernel, length;
	// Those that did something: instructions, and how many.
	uint64_t worked, work_turns;
	// How often a turn was so long.
	uint64_t lengths[LENGTH_MAX];
} turns[CPUS_MAX];
static int listener;

static void paused(unsigned int cpu, void *unused)
{
	(void)unused;
	if (cpu >= CPUS_MAX)
		return;
	struct turns *own = &turns[cpu];
	uint64_t user_now = qemu_plugin_u64_get(user, cpu), length = user_now - own->user;
	uint64_t kernel_now = qemu_plugin_u64_get(kernel, cpu);
	if (length != own->length || kernel_now != own->kernel) {
		own->worked += length;
		own->work_turns++;
	}
	if (length < LENGTH_MAX)
		own->lengths[length]++;
	own->length = length;
	own->user = user_now;
	own->kernel = kernel_now;
}

static void count_block(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
	(void)id;
	// A block is executed to its end, but for faults, which are rare where packets flow. The
	// upper half of the address space is the kernel's.
	int in_kernel = qemu_plugin_tb_vaddr(block) >> 63;
	size_t count = qemu_plugin_tb_n_insns(block);
	qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(block, QEMU_PLUGIN_INLINE_ADD_U64,
							  in_kernel ? kernel : user, count);
	// PAUSE ends a block.
	struct qemu_plugin_insn *last = qemu_plugin_tb_get_insn(block, count - 1);
	unsigned char code[2];
	if (!in_kernel && qemu_plugin_insn_size(last) == 2 &&
	    qemu_plugin_insn_data(last, code, 2) == 2 && code[0] == 0xf3 && code[1] == 0x90)
		qemu_plugin_register_vcpu_insn_exec_cb(last, paused, QEMU_PLUGIN_CB_NO_REGS,
						       NULL);
}

static unsigned int most_frequent(unsigned int cpu)
{
	uint64_t *lengths = turns[cpu].lengths;
	unsigned int best = 0;
	for (unsigned int length = 1; length < LENGTH_MAX; length++)
		if (lengths[length] > lengths[best])
			best = length;
	memset(lengths, 0, sizeof turns[cpu].lengths);
	return best;
}

static void *answer(void *unused)
{
	(void)unused;
	int asker = accept(listener, NULL, NULL);
	char question;
	while (asker >= 0 && read(asker, &question, 1) == 1) {
		int cpus = qemu_plugin_num_vcpus();
		for (int cpu = 0; cpu < cpus && cpu < CPUS_MAX; cpu++)
			dprintf(asker, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %u ",
				qemu_plugin_u64_get(kernel, cpu), qemu_plugin_u64_get(user, cpu),
				turns[cpu].worked, turns[cpu].work_turns, most_frequent(cpu));
		dprintf(asker, "\n");
	}
	return NULL;
}

// Listens before QEMU goes on, so that the socket is there when the guest is.
static int listen_on(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	sigset_t all, before;
	pthread_t thread;
	if (strlen(path) >= sizeof address.sun_path)
		return -1;
	strcpy(address.sun_path, path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
	    listen(listener, 1))
		return -1;
	// QEMU's main thread takes the signals.
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&thread, NULL, answer, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed ? -1 : 0;
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "socket=", 7) || listen_on(argv[0] + 7)) {
		fprintf(stderr, "count: socket=PATH must name a socket that can be made\n");
		return -1;
	}
	struct qemu_plugin_scoreboard *scores = qemu_plugin_scoreboard_new(sizeof(struct counts));
	kernel = (qemu_plugin_u64){ scores, offsetof(struct counts, kernel) };
	user = (qemu_plugin_u64){ scores, offsetof(struct counts, user) };
	qemu_plugin_register_vcpu_tb_trans_cb(id, count_block);
	return 0;
}
