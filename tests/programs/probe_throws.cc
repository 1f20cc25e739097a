// probe_throws.cc - functions that are left by exceptions, catch them, and clean up, and that count their calls.
// Says "ready", works when it reads a line, and says the counts.
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#define NOINLINE __attribute__((noinline, noclone, used))

static std::atomic<unsigned long> thrown, caught, cleaned, calls_throws, calls_catches, calls_cleans, calls_dispatch;

struct Cleaner {
	~Cleaner()
	{
		cleaned++;
	}
};

extern "C" NOINLINE int throws(int x)
{
	calls_throws++;
	if (x % 3 == 0) {
		thrown++;
		throw std::runtime_error("three");
	}
	return x + 1;
}

extern "C" NOINLINE int cleans(int x)
{
	Cleaner cleaner;

	calls_cleans++;
	return throws(x) + 1;
}

extern "C" NOINLINE int catches(int x)
{
	calls_catches++;
	try {
		return cleans(x);
	} catch (const std::runtime_error &error) {
		caught++;
		return -static_cast<int>(std::string(error.what()).size());
	} catch (...) {
		return -100;
	}
}

struct Shape {
	virtual ~Shape() = default;
	virtual int area(int x) const = 0;
};
struct Square : Shape {
	int area(int x) const override
	{
		return x * x;
	}
};
struct Thin : Shape {
	int area(int x) const override
	{
		return catches(x);
	}
};

// A call in place of a return, through a table of functions.
extern "C" NOINLINE int dispatch(const Shape *shape, int x)
{
	calls_dispatch++;
	return shape->area(x + 1);
}

static bool work(int n)
{
	const Square square;
	const Thin thin;

	for (int i = 0; i < n; i++) {
		if (catches(i) != (i % 3 == 0 ? -5 : i + 2) || dispatch(&square, i) != (i + 1) * (i + 1) ||
		    dispatch(&thin, i) != ((i + 1) % 3 == 0 ? -5 : i + 3))
			return false;
	}
	return true;
}

int main()
{
	char line[64];

	std::printf("ready\n");
	std::fflush(stdout);
	if (!std::fgets(line, sizeof line, stdin))
		return 3;
	std::vector<std::thread> threads;
	std::atomic<bool> good{ true };
	for (int i = 0; i < 4; i++)
		threads.emplace_back([&good] {
			if (!work(600))
				good = false;
		});
	for (auto &thread : threads)
		thread.join();
	std::printf("throws=%lu cleans=%lu catches=%lu dispatch=%lu thrown=%lu \n", calls_throws.load(),
		    calls_cleans.load(), calls_catches.load(), calls_dispatch.load(), thrown.load());
	std::fflush(stdout);
	if (!std::fgets(line, sizeof line, stdin))
		line[0] = 0;
	return good && thrown == caught && cleaned == calls_cleans ? 0 : 1;
}
