/* throws.cc - exceptions that are thrown and caught, for a test that translates the code that does. */
#include <stdexcept>
#include <string>

namespace {
struct Counted {
	int &count;
	explicit Counted(int &c) : count(c) {}
	~Counted() { count++; }
};

int thrower(int depth, int &count)
{
	Counted counted(count);
	if (depth == 0)
		throw std::runtime_error("deep");
	return thrower(depth - 1, count) + 1;
}
} // namespace

/* Destructors that ran, plus 1000 for each exception that was caught. */
extern "C" int throws(int rounds, int depth)
{
	int count = 0;
	for (int i = 0; i < rounds; i++) {
		try {
			thrower(depth, count);
		} catch (const std::exception &error) {
			count += std::string(error.what()) == "deep" ? 1000 : 0;
		}
	}
	return count;
}
