/* rates.c - what things cost. */
int price(int things);

int each = 5, many = 10;

/* From ten on a fifth is taken off; so it was meant. */
int price(int things)
{
	int whole = things * each;

	return things > many ? whole - whole / 5 : whole;
}
