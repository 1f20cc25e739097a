// exceptions.cc - throws through many frames, catches by type, unwinds, in threads; the output is known.
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace
{

struct Count {
	int &n;
	explicit Count(int &count) : n(count)
	{
		n++;
	}
	~Count()
	{
		n--;
	}
};

int deep(int level, int &alive)
{
	Count here(alive);

	if (level == 0)
		throw std::out_of_range("the bottom");
	if (level % 17 == 0) {
		try {
			return deep(level - 1, alive) + 1;
		} catch (const std::invalid_argument &) {
			return -1;
		}
	}
	return deep(level - 1, alive) + 1;
}

long work(int seed)
{
	long caught = 0;
	int alive = 0;

	for (int i = 0; i < 200; i++) {
		try {
			deep((i * seed) % 60, alive);
		} catch (const std::exception &error) {
			caught += static_cast<long>(std::string(error.what()).size());
		}
		try {
			std::vector<int>(5).at(static_cast<size_t>(5 + i));
		} catch (const std::out_of_range &) {
			caught++;
		}
		try {
			throw i;
		} catch (int value) {
			caught += value;
		}
	}
	return alive == 0 ? caught : -1;
}

} // namespace

int main()
{
	std::vector<std::thread> threads;
	std::vector<long> results(8);

	for (int i = 0; i < 8; i++)
		threads.emplace_back([i, &results] { results[static_cast<size_t>(i)] = work(i + 1); });
	for (auto &thread : threads)
		thread.join();
	for (long result : results)
		std::printf("%ld\n", result);
	return 0;
}
