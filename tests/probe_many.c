/*
 * timeout: 120
 * Hundreds of probes at a time on functions of real libraries, while a program works with them: it computes
 * what it does without. Also tells how many functions can be counted, and timed.
 */
#include "service/code/probe_inside.h"
#include "service/code/remote.h"

#include <elf.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "code_program.h"

#define FUNCTIONS 20000u
#define AT_A_TIME 300u

struct names {
	char *name[FUNCTIONS];
	size_t count;
};

static uint64_t seed = 88172645463325252ull;

static uint64_t draw(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

static int add_names(void *context, const struct lh_mapping *mapping)
{
	struct names *names = context;
	const char *module = strrchr(mapping->path, '/') + 1;
	int fd = mapping->rights[2] == 'x' && mapping->path[0] == '/'
	                 ? open(mapping->path, O_RDONLY | O_CLOEXEC)
	                 : -1;
	struct stat status;
	const uint8_t *file;
	const Elf64_Ehdr *elf;
	const Elf64_Shdr *section;

	if (fd < 0 || fstat(fd, &status) < 0)
		return 0;
	file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	elf = (const void *)file;
	section = (const void *)(file + elf->e_shoff);
	for (unsigned i = 0; i < elf->e_shnum; i++) {
		const Elf64_Sym *symbol = (const void *)(file + section[i].sh_offset);
		const char *text = (const char *)file + section[section[i].sh_link].sh_offset;

		for (size_t k = 0;
		     section[i].sh_type == SHT_DYNSYM && k < section[i].sh_size / sizeof *symbol; k++)
			if (ELF64_ST_TYPE(symbol[k].st_info) == STT_FUNC && symbol[k].st_size &&
			    names->count < FUNCTIONS &&
			    asprintf(&names->name[names->count], "%s!%s", module, text + symbol[k].st_name) >
			            0)
				names->count++;
	}
	munmap((void *)(uintptr_t)file, (size_t)status.st_size);
	close(fd);
	return 0;
}

struct tally {
	const struct lh_probe_process *process;
	size_t seen, counted, timed;
};

static int try_symbol(void *context, const struct lh_symbol *symbol)
{
	struct tally *tally = context;
	struct lh_probe_code code = { 0 };
	struct lh_probe_sites sites = { 0 };
	char why_not[128] = "";
	int result =
		symbol->is_indirect ? -ENOTSUP : lh__probe_code_read(tally->process, symbol, &code, NULL);

	if (result == 0)
		result = lh__probe_sites_choose(&code, &sites, why_not, NULL);
	tally->seen++;
	tally->counted += result == 0;
	tally->timed += result == 0 && sites.timed;
	lh__probe_sites_free(&sites);
	lh__probe_code_free(&code);
	return result == 0 ? 2 : 1;
}

/* A program that says "ready", works when it reads a line, and says what came out. */
static struct program start_python(const char *text)
{
	struct program program = { 0 };
	int in[2], out[2];
	char line[64];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		exit(99);
	program.id = fork();
	if (program.id == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execlp("python3", "python3", "-c", text, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	program.in = in[1];
	program.out = fdopen(out[0], "r");
	if (!program.out || !fgets(line, sizeof line, program.out))
		return (struct program){ 0 };
	return program;
}

static const char work[] =
	"import sys, hashlib, json, re, zlib, threading, random\n"
	"print('ready', flush=True)\n"
	"sys.stdin.readline()\n"
	"results = {}\n"
	"def work(seed):\n"
	"    r = random.Random(seed)\n"
	"    h = hashlib.sha256()\n"
	"    for i in range(60):\n"
	"        d = {str(r.random()): [r.randrange(10**20), 'x' * r.randrange(50)] for _ in range(20)}\n"
	"        t = json.dumps(d, sort_keys=True)\n"
	"        assert json.loads(t) == d\n"
	"        h.update(re.sub('[3-5]+', lambda m: m.group()[::-1], t).encode())\n"
	"        h.update(hashlib.new('sha3_256', t.encode()).digest())\n"
	"        h.update(zlib.decompress(zlib.compress(t.encode())))\n"
	"        h.update(hashlib.pbkdf2_hmac('md5', t.encode(), b'salt', 50))\n"
	"        try:\n"
	"            {}[i]\n"
	"        except KeyError as e:\n"
	"            h.update(str(e).encode())\n"
	"    results[seed] = h.hexdigest()\n"
	"threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]\n"
	"for t in threads: t.start()\n"
	"for t in threads: t.join()\n"
	"print(sorted(results.items()), flush=True)\n"
	"sys.stdin.readline()\n";

static void run(struct program *program, char *said, size_t size)
{
	if (write(program->in, "\n", 1) != 1 || !fgets(said, (int)size, program->out))
		said[0] = '\0';
}

/* The names that can be probed, at most AT_A_TIME of them; they are taken out of names. */
static size_t choose(struct names *names, struct tally *tally, char **chosen)
{
	size_t n = 0;

	for (unsigned i = 0; i < AT_A_TIME && names->count; i++) {
		size_t which = draw(names->count);

		if (lh__symbols_find(tally->process->symbols, names->name[which], try_symbol, tally) == 2)
			chosen[n++] = names->name[which];
		else
			free(names->name[which]);
		names->name[which] = names->name[--names->count];
	}
	return n;
}

static void once(struct names *names, const char *wanted, struct tally *total)
{
	struct program program = start_python(work);
	struct lh_probe_process process = { .id = program.id };
	struct tally tally = { .process = &process };
	char *chosen[AT_A_TIME];
	struct lh_probes *probes;
	struct lh_error error = { 0 };
	char path[64], said[1024];
	uint64_t calls = 0, returns = 0;
	int result;
	size_t n;

	snprintf(path, sizeof path, "/proc/%d/mem", program.id);
	process.memory = open(path, O_RDONLY | O_CLOEXEC);
	if (lh__symbols_open(program.id, &process.symbols, &error) < 0)
		exit(99);
	n = choose(names, &tally, chosen);
	lh__symbols_close(process.symbols);
	close(process.memory);
	result = lh__probes_put(program.id, (const char *const *)chosen, n, 2000, &probes, &error);
	if (result < 0) {
		ok(0, "%zu probes are put: %s", n, error.text);
		program_kill(&program);
		return;
	}
	run(&program, said, sizeof said);
	for (size_t i = 0; i < lh__probes_count(probes); i++) {
		struct lh_probe_counts counts;

		lh__probes_read(probes, i, &counts);
		calls += counts.calls;
		returns += counts.returns;
	}
	ok(strcmp(said, wanted) == 0, "%zu probes, %lu calls, %lu of them timed: it computes the same", n,
	   calls, returns);
	result = lh__probes_take(probes, 2000, &error);
	ok(result >= 0 && program_end(&program, said, sizeof said) == 0, "they are taken, and it ends well");
	for (size_t i = 0; i < n; i++)
		free(chosen[i]);
	total->seen += tally.seen;
	total->counted += tally.counted;
	total->timed += tally.timed;
}

int main(void)
{
	static struct names names;
	struct program program = start_python(work);
	struct tally total = { 0 };
	char wanted[1024];

	if (!program.id) {
		skip("many probes", "there is no python3");
		return done();
	}
	if (lh__mappings(program.id, add_names, &names) != 0)
		exit(99);
	run(&program, wanted, sizeof wanted);
	ok(strlen(wanted) > 200 && program_end(&program, NULL, 0) == 0, "what it computes without probes");
	for (int i = 0; i < 4; i++)
		once(&names, wanted, &total);
	printf("# of %zu functions %zu can be counted, %zu timed\n", total.seen, total.counted, total.timed);
	ok(total.counted > total.seen / 2 && total.timed > total.counted / 2,
	   "most can be counted, and timed");
	for (size_t i = 0; i < names.count; i++)
		free(names.name[i]);
	return done();
}
